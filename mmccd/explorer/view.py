"""What one picture of the explorer depends on, besides the subject and the networks."""

from collections.abc import Hashable
from dataclasses import dataclass, fields

import numpy as np

from mmccd.masked_diffusion import SAMPLERS, Sampler

SWEEPS = {**SAMPLERS, "one by one": Sampler("disjoint", steps=8)}
"""Samplers by name; the masks of a sampler, one after the other, are a sweep, and fill the anomaly map."""

CycleKey = tuple[Hashable, ...]


@dataclass(frozen=True)
class View:
    """Which slice is shown, what is hidden of it, how it is predicted, and how much of the map is filled.

    Equal views of one subject give the same picture, byte for byte.

    Attributes:
        place: Axial slice, counted on the BraTS grid where the case lies on it.
        input: Modality that is given to the networks.
        target: Modality that is predicted.
        start: First hidden column (or row) of the strip placed by hand, in pixels; it may hang over the border.
        width: Width of a strip in pixels.
        vertical: Whether the strip placed by hand runs from top to bottom.
        sampler: Which masks fill the map, a name in `SWEEPS`.
        steps: Denoising steps under each mask.
        step: The step that is shown, from 1.
        swept: How many masks of the sweep are in the map; 0 means the strip placed by hand alone.
        by_hand: Whether the pictures show the strip placed by hand, or the latest mask of the sweep.
        seed: Seed of the noise.
        threshold: Map values above it count as abnormal.
        twin: Whether the healthy twin is shown too.
        rows: Rows of pictures, 1 or 2.

    Raises:
        ValueError: If a field has the wrong type or is out of range.
    """

    place: int
    input: str = "flair"
    target: str = "t1"
    start: int = 28
    width: int = 8
    vertical: bool = True
    sampler: str = "fast"
    steps: int = 8
    step: int = 8
    swept: int = 0
    by_hand: bool = True
    seed: int = 0
    threshold: float = 1.0
    twin: bool = False
    rows: int = 1

    def __post_init__(self) -> None:
        for f in fields(self):
            v = getattr(self, f.name)
            if f.type is int and (isinstance(v, bool) or not isinstance(v, (int, np.integer))):
                raise ValueError(f"{f.name} must be a whole number, got {v!r}")
            if f.type is bool and not isinstance(v, bool):
                raise ValueError(f"{f.name} must be True or False, got {v!r}")
        if not isinstance(self.threshold, (int, float, np.floating)) or not 0 <= self.threshold < np.inf:
            raise ValueError(f"threshold must be a number from 0 on, got {self.threshold!r}")
        if self.sampler not in SWEEPS:
            raise ValueError(f"sampler must be one of {', '.join(SWEEPS)}, got {self.sampler!r}")
        limits = {
            "width": (1, 1024),
            "steps": (1, 1000),
            "step": (1, self.steps),
            "swept": (0, 10**4),
            "seed": (0, 2**32),
            "rows": (1, 2),
        }
        for name, (low, high) in limits.items():
            if not low <= (v := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {v}")

    @property
    def shown_mask(self) -> int:
        """Number of the sweep's mask in the pictures, from 1; 0 for the strip placed by hand."""
        return 0 if self.by_hand else self.swept


def cycle_key(view: View, number: int) -> CycleKey:
    """Everything that one masked cycle depends on, as a key under which it can be cached.

    Args:
        view: The view that needs the cycle.
        number: Number of the sweep's mask, from 1; 0 for the strip placed by hand, which does not depend on the
            sampler's masks but only on its time steps.
    """
    where = (number,) if number else (0, view.start, view.vertical)
    s = SWEEPS[view.sampler]
    how = view.sampler if number else (s.spacing, s.eta)
    return (view.input, view.target, view.place, how, view.steps, view.seed, view.width, *where)


def required_cycles(view: View) -> list[CycleKey]:
    """Keys of all masked cycles that the picture of `view` needs, in the order in which they are computed."""
    numbers = dict.fromkeys([view.shown_mask, *range(1, view.swept + 1)])
    return [cycle_key(view, k) for k in numbers]
