"""Which view to begin with, and which one to show where the requested one does not exist."""

from dataclasses import replace
from typing import Any

import torch

from mmccd.explorer.engine import Engine
from mmccd.explorer.view import SWEEPS, View


def first_view(engine: Engine, **fields: Any) -> View:
    """The slice with most lesion, else most brain, and a strip through the middle of it.

    Strips are as wide as those with which the detector was calibrated, where its masks are such strips. The steps are
    those of the sampler, though it may have been calibrated with fewer: they are what there is to see.

    Args:
        engine: The subject and the networks.
        **fields: Fields of the view that are given.

    Raises:
        ValueError: If there is no view with these fields.
    """
    sampler = SWEEPS.get(fields.get("sampler", "fast"), SWEEPS["fast"])
    steps = fields.get("steps", sampler.steps)
    least: dict[str, Any] = {"place": engine.places[0], "step": 1, "steps": steps}
    probe = View(**least | fields)  # raises for impossible fields
    pairs = [
        (i, t)
        for i, t in engine.pairs
        if i in engine.subject.case.volumes and fields.get("input", i) == i and fields.get("target", t) == t
    ]
    if not pairs:
        return engine.check_view(probe)  # raises, with the reason
    input, target = engine.default_pair if engine.default_pair in pairs else pairs[0]
    region = interesting_region(engine)
    place = fields.get("place", engine.places[int(region.flatten(1).sum(1).argmax())])
    own = engine.detector(replace(probe, input=input, target=target)).config.sampler
    own_width = own.width if own.masks == sampler.masks else 0
    width = fields.get("width", own_width or max(engine.size // 8, 1))
    middle = middle_of(region[engine.slices.number(place)][0], fields.get("vertical", True))
    view = View(
        place=place,
        input=input,
        target=target,
        width=width,
        start=middle - width // 2,
        steps=steps,
        step=steps,
        by_hand=not fields.get("swept"),
    )
    threshold: dict[str, Any] = {"threshold": engine.threshold(view) or engine.detector(view).map_top}
    return engine.check_view(replace(view, **threshold | fields))


def interesting_region(engine: Engine) -> torch.Tensor:
    """The lesion in all slices, or the brain where there is no lesion, bool (n 1 h w)."""
    lesion = engine.slices.lesion
    return engine.slices.brain if lesion is None or not lesion.any() else lesion


def middle_of(region: torch.Tensor, vertical: bool) -> int:
    """Mean column (or row) of those that meet `region`, bool (h w); the middle of the slice where it is empty."""
    hit = region.any(0 if vertical else 1).nonzero().float()
    return int(hit.mean()) if len(hit) else region.shape[-1] // 2


def nearest_view(engine: Engine, view: View) -> View:
    """The view that exists and is nearest to `view`, which may belong to another subject."""
    pairs = [p for p in engine.pairs if p[0] in engine.subject.case.volumes]
    input, target = min(pairs, key=lambda p: (p[0] != view.input, p[1] != view.target))
    place = min(engine.places, key=lambda p: abs(p - view.place))
    width = min(view.width, engine.size)
    start = min(max(view.start, 1 - width), engine.size - 1)
    view = replace(view, input=input, target=target, place=place, width=width, start=start)
    swept = min(view.swept, len(engine.masks(view)))
    return replace(view, swept=swept, by_hand=view.by_hand or not swept)
