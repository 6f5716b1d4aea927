"""The networks of the explorer: detectors with a masked cycle, for one pair of modalities."""

from dataclasses import replace
from typing import cast

from mmccd.detector import load_detector
from mmccd.explorer.view import SWEEPS, View
from mmccd.masked_diffusion import MMCCD, Sampler
from mmccd.registry import masked_methods


def load_masked_detector(weights: str, input: str | None, target: str | None, device: str = "cpu") -> MMCCD:
    """Load a detector with a masked cycle, ready to predict.

    Args:
        weights: The name of a packaged method that predicts hidden parts, which stands for all pairs of modalities;
            or a folder or hub name for `load_detector`.
        input: Modality that is given to it, or None for the detector's own pair.
        target: Modality that it predicts.
        device: Where it runs.

    Returns:
        The detector, calibrated if it was saved with a threshold for this pair.

    Raises:
        ValueError: If there are no such weights, or they have no masked cycle.
    """
    name = f"{weights}-{input or 'flair'}-{target or 't1'}" if weights in masked_methods() else weights
    detector = load_detector(name)
    if not isinstance(detector, MMCCD):
        raise ValueError(
            f"the explorer shows masked cycles, and {weights} is a {type(detector).__name__}: "
            "choose mmccd, masked, or a run of `mmccd train mmccd`"
        )
    detector.to(device).eval()
    if input and target and (detector.config.input, detector.config.target) != (input, target):
        return cast(MMCCD, detector.for_pair(input, target))
    return detector


def sampler_for(view: View, size: int) -> Sampler:
    """The sampler of a sweep with the strip width and the number of steps of `view`, on slices of `size` pixels.

    Wide strips are hidden fewer at a time, so that about half of the slice stays visible.
    """
    s = SWEEPS[view.sampler]
    n_strips = max(min(s.n_strips, size // (2 * view.width)), 1)
    return replace(s, width=view.width, steps=view.steps, n_strips=n_strips)
