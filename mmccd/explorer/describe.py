"""The explorer's picture in words, and as the Python that makes it again."""

from dataclasses import fields, replace

import torch

from mmccd.explorer.engine import Engine
from mmccd.explorer.networks import sampler_for
from mmccd.explorer.render import truth_name
from mmccd.explorer.view import View
from mmccd.masked_diffusion import Sampler


def describe(engine: Engine, view: View) -> str:
    """What the picture shows, in a few sentences; ValueError where there is no such view."""
    subject = engine.subject
    image = f"{subject.note}{view.input.upper()} of {subject.case.id}, axial slice {view.place}."
    sentences = [image, *(f(engine, view) for f in (mask_text, step_text, error_text, map_text))]
    if view.twin and engine.slice("twin", view) is not None:
        sentences.append(f"The last picture is the healthy twin's {view.input.upper()}.")
    return " ".join(sentences)


def mask_text(engine: Engine, view: View) -> str:
    """What is hidden, and how much of the lesion."""
    t, lesion = engine.trace(view, view.shown_mask), engine.slice("lesion", view)
    if view.shown_mask:
        n, share = len(engine.masks(view)), t.mask.float().mean()
        hidden = f"Mask {view.shown_mask} of {n} of the sweep {view.sampler!r} hides {share:.0%} of the slice"
    else:
        first, last = max(view.start, 0), min(view.start + view.width, engine.size)
        lines = "columns" if view.vertical else "rows"
        hidden = f"Hidden: {last - first} of {engine.size} {lines}, from {first} on"
    if lesion is None or not lesion.any():
        return hidden + "."
    return f"{hidden}, and with it {(t.mask & lesion).sum() / lesion.sum():.0%} of the {truth_name(engine)}."


def step_text(engine: Engine, view: View) -> str:
    """What happens in the step that is shown."""
    t, detector, target = engine.trace(view, view.shown_mask), engine.detector(view), view.target.upper()
    if not detector.config.diffusion:
        return f"{target} is predicted in one step, without diffusion."
    k, abar = min(view.step, len(t.steps)), detector.f.abar
    s = t.steps[k - 1]
    noise = "which is pure noise" if k == 1 else f"with noise of standard deviation {(1 - abar[s.t]).sqrt():.2f} in it"
    return (
        f"Step {k} of {len(t.steps)} (t = {s.t} of {len(abar) - 1}): "
        f"{target} is predicted from what is visible and from x_t, {noise}."
    )


def error_text(engine: Engine, view: View) -> str:
    """The mean squared error under the mask, inside and outside the lesion."""
    t, lesion = engine.trace(view, view.shown_mask), engine.slice("lesion", view)
    under = t.mask & t.brain
    if not under.any():
        return "No brain is hidden, so there is no error to measure."

    def mean(region: torch.Tensor) -> str:
        return f"{t.error[region].mean():.2f}" if region.any() else "-"

    if lesion is None or not (under & lesion).any():
        return f"Mean squared error under the mask: {mean(under)}."
    return (
        f"Mean squared error under the mask: {mean(under & lesion)} in the {truth_name(engine)}, "
        f"{mean(under & ~lesion)} in the rest of the brain."
    )


def map_text(engine: Engine, view: View) -> str:
    """What the map holds so far, the threshold, and the scores."""
    if not view.swept:
        content = "The map holds this strip alone; what lies outside it counts as not found"
    else:
        content = f"The map holds {view.swept} of {len(engine.masks(view))} masks"
        content += ", the strip that is shown not among them" if view.by_hand else ""
    calibrated = engine.threshold(view)
    if calibrated is None:
        origin = "none is calibrated"
    else:
        other = "" if is_calibrated_map(engine, view) else ", for a full sweep with the detector's own masks and steps"
        origin = f"calibrated: {calibrated:.3g}{other}"
    return (
        f"{content}. Above the threshold {view.threshold:.3g} ({origin}): "
        f"{score_text(engine.scores(view))}, in this slice at {engine.size} x {engine.size} pixels."
    )


def score_text(scores: dict[str, float] | None) -> str:
    """Scores from `Engine.scores` as one line of text."""
    if scores is None:
        return "the truth is not known"
    if "false positives" in scores:
        return f"{scores['false positives']:.2%} of the brain, all false alarms"
    return ", ".join(f"{k.capitalize() if k == 'dice' else k} {v:.2f}" for k, v in scores.items())


def is_calibrated_map(engine: Engine, view: View) -> bool:
    """Whether this map is made like the maps on which the threshold was calibrated."""
    c = engine.detector(view).config

    def comparable(s: Sampler) -> Sampler:
        return replace(s, width=s.width or max(engine.size // 8, 1), step=0, steps=s.steps if c.diffusion else 1)

    same_sampler = comparable(sampler_for(view, engine.size)) == comparable(c.sampler)
    return not c.extra_targets and same_sampler and view.swept == len(engine.masks(view))


def python_lines(engine: Engine, view: View) -> str:
    """Python that makes the picture again; fields of the view that have their default are left out."""
    default = View(view.place)
    given = ", ".join(
        f"{f.name}={getattr(view, f.name)!r}"
        for f in fields(View)
        if getattr(view, f.name) != getattr(default, f.name) or f.name == "place"
    )
    call, hash_sign, remark = engine.subject.call.partition("  #")
    options = {"weights": (str(engine.weights), "mmccd"), "device": (str(engine.device), "cpu")}
    more = "".join(f", {k}={v!r}" for k, (v, usual) in options.items() if v != usual)
    return f"""from mmccd.explorer import Explorer, View, {call.split("(")[0]}

subject = {call}{hash_sign}{remark}
explorer = Explorer(subject{more})
view = View({given})
print(explorer.describe(view))
explorer.image(view)"""
