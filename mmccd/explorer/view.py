""""""

from dataclasses import dataclass, fields

import numpy as np

from mmccd.masked_diffusion import SAMPLERS, Sampler

SWEEPS = {**SAMPLERS, "one by one": Sampler("disjoint", steps=8)}  # by name: which masks fill the map


@dataclass(frozen=True)
class View:
    "What is looked at: all that a picture depends on beside the subject and the networks."

    place: int  # axial slice, counted on the BraTS grid where the case lies on it
    input: str = "flair"  # modality that is shown to the model
    target: str = "t1"  # modality that it imagines
    start: int = 28  # first hidden column or row of the strip put down by hand, may hang over the border
    width: int = 8  # pixels across a strip
    vertical: bool = True  # does the strip put down by hand run from top to bottom?
    sampler: str = "fast"  # which masks fill the map: a name in `SWEEPS`
    steps: int = 8  # of denoising under each mask
    step: int = 8  # the one that is shown, from 1
    swept: int = 0  # masks of the sweep that are in the map; 0: the strip put down by hand alone
    by_hand: bool = True  # show the strip put down by hand, or the latest of the sweep?
    seed: int = 0  # of the noise
    threshold: float = 1.0  # a map above it is called abnormal
    twin: bool = False  # show the healthy twin too?
    rows: int = 1  # rows of pictures, 1 or 2

    def __post_init__(self):
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
        for name, low, high in (
            ("width", 1, 1024),
            ("steps", 1, 1000),
            ("step", 1, self.steps),
            ("swept", 0, 10**4),
            ("seed", 0, 2**32),
            ("rows", 1, 2),
        ):
            if not low <= (v := getattr(self, name)) <= high:
                raise ValueError(f"{name} must be {low} to {high}, got {v}")

    @property
    def shown(self) -> int:
        return 0 if self.by_hand else self.swept  # number of the mask in the pictures, from 1; 0: by hand


def cycle_key(
    view: View,  # what is looked at
    number: int,  # of the sweep's mask, from 1; 0: the strip put down by hand
) -> tuple:
    "What a masked cycle depends on."
    where = (number,) if number else (0, view.start, view.vertical)
    s = SWEEPS[view.sampler]
    how = view.sampler if number else (s.spacing, s.eta)  # a strip put down by hand knows no family of masks
    return (view.input, view.target, view.place, how, view.steps, view.seed, view.width, *where)


def needed(
    view: View,  # what is looked at
) -> list:  # keys of the cycles that its picture needs, in the order in which they are computed
    "What has to be computed."
    numbers = dict.fromkeys([view.shown, *range(1, view.swept + 1)])
    return [cycle_key(view, k) for k in numbers]
