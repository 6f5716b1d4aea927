""""""

from __future__ import annotations

from dataclasses import fields, replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from mmccd.explorer.canvas import Tile, paint_over, pure, shade
from mmccd.explorer.engine import sampler_of, score_words
from mmccd.explorer.view import View
from mmccd.viz import crop_to

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer


def tiles_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> list:  # `Tile`s
    "From the input to the map, left to right."
    t, d = explorer.trace(view, view.shown), explorer.detector(view)
    if "box" not in explorer.read:
        explorer.read["box"] = crop_to(explorer.read["brain"], 1)

    def cut(p):
        return p.reshape(p.shape[-2:])[explorer.read["box"]].numpy()

    x, mask, brain, step = cut(t.x), cut(t.mask), cut(t.brain), t.steps[min(view.step, len(t.steps)) - 1]
    rim, top = ((mask, pure("hidden")),), map_scale(explorer, view)

    def grey(title, p, low=-1.0, high=1.0, lines=rim):
        return Tile(title, shade(p, low, high), lines, (low, high, False))

    def heat(title, p, marks=()):
        return Tile(title, shade(p, 0, top, True), rim * (not marks), (0, top, True), marks)

    i, o = view.input.upper(), view.target.upper()
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
    ]
    twin = explorer.slice("twin", view) if view.twin else None
    return tiles + ([grey("healthy twin", np.where(brain, cut(twin), -1), lines=())] if twin is not None else [])


def map_scale(
    explorer: Explorer,  # of whom
    view: View,  # which way
) -> float:  # upper end of the scale of errors and maps
    "Fixed for a detector: half more than its calibrated threshold, or where there is none than what its class says."
    return float(f"{1.5 * (explorer.threshold(view) or explorer.detector(view).map_top):.3g}")


def evaluated_tile(
    explorer: Explorer,  # of whom
    view: View,  # with the threshold
    x: np.ndarray,  # the input, cut
    cut,  # function that cuts a picture
) -> Tile:
    "What the threshold calls abnormal, in colour, and the truth as a line."
    found, lesion, grey = cut(explorer.map(view)) > view.threshold, explorer.slice("lesion", view), shade(x, -1, 1)
    if lesion is None:
        return Tile(
            "found", paint_over(grey, found=found), note=(f"green: above {view.threshold:.3g}", "truth not known")
        )
    lesion, scores = cut(lesion), explorer.scores(view)
    note = (
        ("green found, red false", f"blue {explorer.thing}, Dice {scores['dice']:.2f}")
        if lesion.any()
        else ("red: false alarms", f"{scores['false positives']:.2%} of the brain")
    )
    return Tile(
        "found, truth",
        paint_over(grey, found=found & lesion, wrong=found & ~lesion),
        ((lesion, pure("truth")),),
        note=note,
    )


def hidden_words(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> str:
    "What is hidden."
    t, lesion = explorer.trace(view, view.shown), explorer.slice("lesion", view)
    if view.shown:
        what = f"Mask {view.shown} of {len(explorer.masks(view))} of the sweep {view.sampler!r} hides {t.mask.float().mean():.0%} of the slice"
    else:
        what = f"Hidden: {min(view.start + view.width, explorer.size) - (first := max(view.start, 0))} of {explorer.size} {'columns' if view.vertical else 'rows'}, from {first} on"
    if lesion is None or not lesion.any():
        return what + "."
    return f"{what}, and with it {(t.mask & lesion).sum() / lesion.sum():.0%} of the {explorer.thing}."


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
