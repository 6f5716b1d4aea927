"""Families of masks: what each one hides, how often each pixel is hidden, and the cost in network evaluations."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from torch import Tensor

from mmccd.cases.examples import lesion_slice, phantom_slices
from mmccd.masking import MASKS, MaskPlan
from mmccd.phantom import make_phantom
from mmccd.viz import HIDDEN, Sheet, overlay, show_image
from mmccd.widgets.layout import fixed_axes

SIZE, VOLUME = 64, 155  # pixels along a side of a slice, and slices of a whole head
FAMILIES = {
    "published": "strips from the border on",
    "even": "strips over the border",
    "disjoint": "strips side by side",
    "blocks": "square blocks",
}
WIDTHS, MOST_BLOCK_MASKS, MOST_STEPS = (2, 32), 32, 250


@dataclass(frozen=True)
class MasksState:
    """A family of masks, one of them, and the steps of the diffusion.

    Attributes:
        family: A key of `mmccd.masking.MASKS`.
        width: Pixels across a strip or a block.
        step: Pixels from one strip to the next, for "published" and "even"; the rest of the width is overlap.
        at_once: Strips in a mask, for "disjoint".
        dealt: Masks that the blocks are dealt to, for "blocks".
        shown: Which mask is drawn, from 1.
        steps: Diffusion steps on the way there; the way back is one more evaluation.
    """

    family: str = "even"
    width: int = 8
    step: int = 4
    at_once: int = 1
    dealt: int = 8
    shown: int = 10
    steps: int = 10


def legal_steps(family: str, width: int) -> tuple[int, ...]:
    """Steps from strip to strip that the family allows; empty where it has none."""
    if family == "published":
        return tuple(range(1, width + 1))
    return tuple(s for s in range(1, width + 1) if width % s == 0) if family == "even" else ()


def most_at_once(width: int) -> int:
    """How many strips of a width lie side by side in a slice."""
    return -(-SIZE // width)


def most_dealt(width: int) -> int:
    """To how many masks the blocks of a width can be dealt, `MOST_BLOCK_MASKS` at most."""
    return min(most_at_once(width) ** 2, MOST_BLOCK_MASKS)


def check_masks(state: MasksState) -> MasksState:
    """The same state.

    Raises:
        ValueError: If there is no such family, or a number lies outside of what the controls can say.
    """
    if state.family not in MASKS:
        raise ValueError(f"unknown family {state.family!r}; choose one of {', '.join(MASKS)}")
    for name, low, high in (("width", *WIDTHS), ("steps", 1, MOST_STEPS)):
        if not low <= getattr(state, name) <= high:
            raise ValueError(f"{name} must lie in {low} to {high}, got {getattr(state, name)}")
    return state


def fit_masks(state: MasksState) -> MasksState:
    """The state that exists and is nearest to `state`."""
    if legal := legal_steps(state.family, state.width):
        state = replace(state, step=min(legal, key=lambda s: (abs(s - state.step), s)))
    at_once = min(max(state.at_once, 1), most_at_once(state.width))
    state = replace(state, at_once=at_once, dealt=min(max(state.dealt, 1), most_dealt(state.width)))
    return replace(state, shown=min(max(state.shown, 1), len(make_masks(state))))


def make_masks(state: MasksState) -> Tensor:
    """All masks of the family, bool (n 1 size size)."""
    third = {"disjoint": state.at_once, "blocks": state.dealt}.get(state.family, state.step)
    return cached_masks(state.family, state.width, third)


@lru_cache(32)
def cached_masks(family: str, width: int, third: int) -> Tensor:
    """All masks of a family; `third` is its step, its strips at once, or its masks."""
    return MASKS[family](SIZE, width, third)


def coverage(state: MasksState) -> np.ndarray:
    """How often each pixel is hidden, int (size size)."""
    return make_masks(state).sum(0)[0].numpy()


def shares(state: MasksState) -> np.ndarray:
    """Share of the slice that each mask hides, (n,), in [0, 1]."""
    return make_masks(state).flatten(1).float().mean(1).numpy()


def cost(state: MasksState, slices: int = 1) -> int:
    """Network evaluations: for each mask on each slice the diffusion steps there, and one way back."""
    masks = make_masks(state)
    brain = masks.new_ones(slices, *masks.shape[1:])
    return MaskPlan(masks, brain, skip=False).cost(state.steps)


def describe_masks(state: MasksState) -> str:
    """What the picture shows, and what the family costs, in three sentences."""
    often, hidden, n = coverage(state), shares(state), len(make_masks(state))
    low, high = int(often.min()), int(often.max())
    times = "once" if high == 1 else f"{high} times"
    even = f"Every pixel is hidden {times}." if low == high else f"A pixel is hidden {low} to {high} times: not evenly."
    return (
        f"Mask {state.shown} of {n} hides {100 * hidden[state.shown - 1]:.1f} % of the slice. {even} "
        f"One slice costs {n} × ({state.steps} + 1) = {cost(state):,} network evaluations ({state.steps} there, 1 "
        f"back, for each mask), and a head of {VOLUME} slices costs {cost(state, VOLUME):,}."
    )


@lru_cache(1)
def example_slice() -> tuple[np.ndarray, np.ndarray]:
    """FLAIR of a phantom with a glioma, (size size) in [-1, 1], and its brain."""
    s = lesion_slice(phantom_slices(make_phantom("glioma", 404, 4, range(76, 77), twin=False), SIZE, ("flair",)))
    return s["flair"][0, 0].numpy(), s["brain"][0, 0].numpy()


def paint_mask(state: MasksState) -> np.ndarray:
    """The slice with the shown mask laid over it, (size size 3) in [0, 1]."""
    image, brain = example_slice()
    mask, out = make_masks(state)[state.shown - 1, 0].numpy(), overlay(np.where(brain, image, -1), np.zeros_like(image))
    out[mask] += 0.75 * (np.array(to_rgb(HIDDEN), np.float32) - out[mask])
    return out


def draw_shares(ax: Any, state: MasksState) -> None:
    """A bar for each mask: the share of the slice that it hides; the shown one in the colour of what is hidden."""
    hidden = 100 * shares(state)
    bars = ax.bar(range(1, len(hidden) + 1), hidden, width=1 if len(hidden) > 60 else 0.8, color="0.7")
    bars[state.shown - 1].set_color(HIDDEN)
    ax.set(xlabel="mask", ylabel="hidden, % of slice", xlim=(0.3, len(hidden) + 0.7), ylim=(0, 1.1 * hidden.max()))
    ax.xaxis.get_major_locator().set_params(integer=True)


def draw_masks(state: MasksState) -> Sheet:
    """The slice under one mask, how often each pixel is hidden, and the share that each mask hides."""
    sheet = Sheet(5.6, 4.9)
    top, colours = int(coverage(state).max()), LinearSegmentedColormap.from_list("often", ["white", HIDDEN])
    left, right, bar, below = fixed_axes(
        sheet, (0.1, 2.3, 2.3, 2.3), (2.7, 2.3, 2.3, 2.3), (5.05, 2.3, 0.14, 2.3), (0.7, 0.55, 4.7, 1.2)
    )
    show_image(left, paint_mask(state), title=f"mask {state.shown} of {len(make_masks(state))}")
    drawn = show_image(right, coverage(state), 0, top, colours, "masks over each pixel")
    right.spines[:].set_visible(True)
    sheet.colorbar(drawn, cax=bar, ticks=sorted({0, top // 2, top}))
    draw_shares(below, state)
    below.set_title(f"cost of a slice: {cost(state):,} network evaluations", fontsize=12)
    return sheet
