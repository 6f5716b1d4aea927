"""The pictures of the explorer: one tile for each stage of the masked cycle, from the input to what was found."""

from __future__ import annotations

import numpy as np
import torch

from mmccd.explorer.canvas import Tile, overlay_colours, pure, shade
from mmccd.explorer.engine import Engine
from mmccd.explorer.view import View
from mmccd.masked_diffusion import MMCCD


def tiles_of(engine: Engine, view: View) -> list[Tile]:
    """The row of pictures, left to right; ValueError where there is no such view."""
    t, diffusion = engine.trace(view, view.shown_mask), engine.detector(view).config.diffusion
    step = t.steps[min(view.step, len(t.steps)) - 1]
    mask, brain = crop(engine, t.mask), crop(engine, t.brain)
    rim, top = ((mask, pure("hidden")),), map_scale(engine, view)
    most = MMCCD.map_top if engine.detector(view).config.error.expected else top  # the map is no error then

    def grey(title: str, image: torch.Tensor, limit: float = 1.0, outlines=rim) -> Tile:
        return Tile(title, shade(crop(engine, image), -limit, limit), outlines, (-limit, limit, False))

    i, o = view.input.upper(), view.target.upper()
    x = shade(crop(engine, t.x), -1, 1)
    error = shade(np.where(mask & brain, crop(engine, t.error), 0), 0, most, True)
    noisy = [grey(f"xₜ: noisy {o}", step.x_t, 2.0), grey(f"predicted {o}", step.x0)]
    twin = engine.slice("twin", view) if view.twin else None
    return [
        grey(f"x: {i}", t.x, outlines=()),
        Tile("mask", overlay_colours(x, hidden=mask), note=("orange: hidden",)),
        grey("condition", t.cond),
        *(noisy if diffusion else []),
        grey(f"ŷ: {o}", t.y),
        grey("x̄ = g(ŷ)", t.reconstruction),
        Tile("error²", error, rim, (0, most, True)),
        map_tile(engine, view, top),
        found_tile(engine, view, x),
        *([] if twin is None else [grey("healthy twin", torch.where(t.brain[0], twin, -1), outlines=())]),
    ]


def crop(engine: Engine, image: torch.Tensor) -> np.ndarray:
    """The part of a slice that holds the brain, (h w)."""
    return image.reshape(image.shape[-2:])[engine.slices.box].numpy()


def map_scale(engine: Engine, view: View) -> float:
    """Upper end of the scale of maps: half more than the calibrated threshold, else than `map_top`.

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


def truth_name(engine: Engine) -> str:
    """What the lesion mask marks: a fault of the scanner is no disease."""
    return "artefact" if engine.subject.kind == "artefact" else "lesion"
