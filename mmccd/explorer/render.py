"""The pictures of the explorer: one tile for each stage of the masked cycle, from the input to what was found."""

from __future__ import annotations

import numpy as np
import torch

from mmccd.explorer.canvas import Tile, overlay_colours, pure, shade
from mmccd.explorer.engine import Engine
from mmccd.explorer.view import View


def tiles_of(engine: Engine, view: View) -> list[Tile]:
    """The row of pictures, left to right; ValueError where there is no such view."""
    t, diffusion = engine.trace(view, view.shown_mask), engine.detector(view).config.diffusion
    step = t.steps[min(view.step, len(t.steps)) - 1]
    mask, brain = crop(engine, t.mask), crop(engine, t.brain)
    rim, top = ((mask, pure("hidden")),), map_scale(engine, view)

    def grey(title: str, image: torch.Tensor, limit: float = 1.0, outlines=rim) -> Tile:
        return Tile(title, shade(crop(engine, image), -limit, limit), outlines, (-limit, limit, False))

    i, o = view.input.upper(), view.target.upper()
<<<<<<< HEAD
    done = f"map, {view.swept} of {len(explorer.masks(view))}" if view.swept else "map, this strip"
    marks = ((view.threshold, ""),) + (((h, "▲"),) if (h := explorer.threshold(view)) else ())
    noisy = (
        [grey(f"xₜ: noisy {o}", cut(step.x_t), -2.0, 2.0), grey(f"predicted {o}", cut(step.x0))]
        if d.config.diffusion
        else []
    )
    tiles = [
        grey(f"x: {i}", x, lines=()),
        Tile("mask", paint_over(shade(x, -1, 1), hidden=mask), note=("orange: hidden",)),
        grey("condition", cut(t.cond)),
        *noisy,
        grey(f"ŷ: {o}", cut(t.y)),
        grey("x̄ = g(ŷ)", cut(t.reconstruction)),
        heat("error²", np.where(mask & brain, cut(t.error), 0)),
        heat(done, cut(explorer.map(view)), marks),
        evaluated_tile(explorer, view, x, cut),
=======
    x = shade(crop(engine, t.x), -1, 1)
    error = shade(np.where(mask & brain, crop(engine, t.error), 0), 0, top, True)
    noisy = [grey(f"xₜ: noisy {o}", step.x_t, 2.0), grey(f"predicted {o}", step.x0)]
    twin = engine.slice("twin", view) if view.twin else None
    return [
        grey(f"x: {i}", t.x, outlines=()),
        Tile("mask", overlay_colours(x, hidden=mask), note=("orange: hidden",)),
        grey("condition", t.cond),
        *(noisy if diffusion else []),
        grey(f"ŷ: {o}", t.y),
        grey("x̄ = g(ŷ)", t.reconstruction),
        Tile("error²", error, rim, (0, top, True)),
        map_tile(engine, view, top),
        found_tile(engine, view, x),
        *([] if twin is None else [grey("healthy twin", torch.where(t.brain[0], twin, -1), outlines=())]),
>>>>>>> 522299f (explorer: one direction (engine, pictures, words, panel), typed, names of the field; options of the command as a dataclass)
    ]


def crop(engine: Engine, image: torch.Tensor) -> np.ndarray:
    """The part of a slice that holds the brain, (h w)."""
    return image.reshape(image.shape[-2:])[engine.slices.box].numpy()


def map_scale(engine: Engine, view: View) -> float:
    """Upper end of the scale of errors and maps: half more than the calibrated threshold, else than `map_top`.

    It depends on the detector alone, so that pictures can be compared.
    """
    return float(f"{1.5 * (engine.threshold(view) or engine.detector(view).map_top):.3g}")


def map_tile(engine: Engine, view: View, top: float) -> Tile:
    """The anomaly map from the masks done so far, the threshold on its colour bar, on a scale up to `top`."""
    title = f"map, {view.swept} of {len(engine.masks(view))}" if view.swept else "map, this strip"
    calibrated = engine.threshold(view)
    marks = ((view.threshold, ""), *(((calibrated, "▲"),) if calibrated else ()))
    return Tile(title, shade(crop(engine, engine.map(view)), 0, top, True), (), (0, top, True), marks)


def found_tile(engine: Engine, view: View, grey: np.ndarray) -> Tile:
    """What lies above the threshold in colour, and an outline of the lesion, over the input as palette indices."""
    found, lesion = crop(engine, engine.map(view)) > view.threshold, engine.slice("lesion", view)
    scores = engine.scores(view)
    if lesion is None or scores is None:
        note = (f"green: above {view.threshold:.3g}", "truth not known")
        return Tile("found", overlay_colours(grey, found=found), note=note)
    truth = crop(engine, lesion)
    if truth.any():
        note = ("green found, red false", f"blue {truth_name(engine)}, Dice {scores['dice']:.2f}")
    else:
        note = ("red: false alarms", f"{scores['false positives']:.2%} of the brain")
    colours = overlay_colours(grey, found=found & truth, wrong=found & ~truth)
    return Tile("found, truth", colours, ((truth, pure("truth")),), note=note)


<<<<<<< HEAD
def step_words(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:
    "What happens in the step."
    t, d, o = explorer.trace(view, view.shown), explorer.detector(view), view.target.upper()
    if not d.config.diffusion:
        return f"{o} is imagined in one go, without diffusion."
    k = min(view.step, len(t.steps))
    s = t.steps[k - 1]
    noise = (
        "which is pure noise" if k == 1 else f"with noise of standard deviation {(1 - d.f.abar[s.t]).sqrt():.2f} in it"
    )
    return f"Step {k} of {len(t.steps)} (t = {s.t} of {len(d.f.abar) - 1}): {o} is predicted from what is visible and from x_t, {noise}."


def error_words(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:
    "How far what comes back is from what was there."
    t, lesion = explorer.trace(view, view.shown), explorer.slice("lesion", view)
    under = t.mask & t.brain
    if not under.any():
        return "No brain is hidden, so nothing is judged."

    def mean(m):
        return f"{t.error[m].mean():.2f}" if m.any() else "-"

    if lesion is None or not (under & lesion).any():
        return f"Mean squared error where it is hidden: {mean(under)}."
    return f"Mean squared error where it is hidden: {mean(under & lesion)} in the {explorer.thing}, {mean(under & ~lesion)} in the rest of the brain."


def map_words(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:
    "What the map is worth so far."
    n, h, scores = len(explorer.masks(view)), explorer.threshold(view), explorer.scores(view)
    have = (
        f"The map holds {view.swept} of {n} masks" + ", the strip that is shown not among them" * view.by_hand
        if view.swept
        else "The map holds this strip alone; what lies outside it counts as not found"
    )
    usual = (
        "none is calibrated"
        if h is None
        else f"calibrated: {h:.3g}{'' if is_calibrated_map(explorer, view) else ', for a full sweep with the usual masks and steps'}"
    )
    return f"{have}. Above the threshold {view.threshold:.3g} ({usual}): {score_words(scores)}, in this slice at {explorer.size} x {explorer.size} pixels."


def is_calibrated_map(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> bool:
    "Is this map made as the one that the threshold was calibrated on?"
    c, kind = explorer.detector(view).config, sampler_of(view, explorer.size)

    def own(s):
        return replace(s, width=s.width or max(explorer.size // 8, 1), step=0, steps=s.steps if c.diffusion else 1)

    return not c.extra_targets and own(kind) == own(c.sampler) and view.swept == len(explorer.masks(view))


def describe(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:  # a few sentences
    "What one is looking at."
    who = f"{explorer.subject.note}{view.input.upper()} of {explorer.subject.case.id}, axial slice {view.place}."
    twin = (
        [f"Last stands the same head in health, {view.input.upper()}."]
        if view.twin and explorer.slice("twin", view) is not None
        else []
    )
    return " ".join([who, *(f(explorer, view) for f in (hidden_words, step_words, error_words, map_words)), *twin])


def gif_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
    over="strips",  # what moves: "strips" or "steps"
    seconds=0.4,  # a frame
) -> bytes:  # a GIF file that repeats itself
    "The row in motion."
    if over == "strips":
        views = [replace(view, swept=k, by_hand=False) for k in range(1, len(explorer.masks(view)) + 1)]
    elif over == "steps":
        views = [replace(view, step=k) for k in range(1, len(explorer.trace(view, view.shown).steps) + 1)]
    else:
        raise ValueError(f"a GIF moves over strips or steps, got {over!r}")
    frames, out = [explorer.image(v) for v in views], BytesIO()
    hold = [round(1000 * seconds)] * (len(frames) - 1) + [round(3000 * seconds)]
    frames[0].save(out, "gif", save_all=True, append_images=frames[1:], duration=hold, loop=0)
    return out.getvalue()


def lines_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:  # several lines of Python
    "The Python that reproduces the picture."
    plain = View(view.place)
    said = ", ".join(
        f"{f.name}={getattr(view, f.name)!r}"
        for f in fields(View)
        if getattr(view, f.name) != getattr(plain, f.name) or f.name == "place"
    )
    call, _, remark = explorer.subject.call.partition("  #")
    more = "".join(
        f", {k}={v!r}"
        for k, v, usual in (("weights", str(explorer.weights), "mmccd"), ("device", str(explorer.device), "cpu"))
        if v != usual
    )
    return f"""from mmccd.explore import Explorer, View, {call.split("(")[0]}

subject = {call}{"  #" * bool(remark)}{remark}
explorer = Explorer(subject{more})
view = View({said})
print(explorer.describe(view))
explorer.image(view)"""
=======
def truth_name(engine: Engine) -> str:
    """What the lesion mask marks: a fault of the scanner is no disease."""
    return "artefact" if engine.subject.kind == "artefact" else "lesion"
>>>>>>> 522299f (explorer: one direction (engine, pictures, words, panel), typed, names of the field; options of the command as a dataclass)
