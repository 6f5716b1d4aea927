"""Do the modalities of a case show one head in one place? And all of it?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from mmccd.cases.grid import voxel_size

SHIFT = (-8.0, -4.0, 4.0, 8.0)  # millimetres, tried along each axis
BETTER = 1.1  # times the mutual information of the images as they lie: so much more is no chance
COARSE, RIM = 2.0, 12.0  # millimetres: of the voxels that are compared, and of the brain's border that does not count
LEVELS = 24  # of brightness, each with as many voxels
CUT = 5.0  # square centimetres of brain on a face of the volume
WHOLE = 100.0  # millimetres: a scan that is less high is a part of a head, and no fault
AXES = ("left to right", "front to back", "top to bottom")
SIDES = ("right", "left", "front", "back", "bottom", "top")  # faces in LPS


def mutual_information(a: np.ndarray, b: np.ndarray) -> float:
    """Return how many nats one says of the other; both hold `LEVELS` levels, of the same voxels (n,)."""
    joint = np.bincount(a * LEVELS + b, minlength=LEVELS**2).reshape(LEVELS, LEVELS) / len(a)
    apart, there = np.outer(joint.sum(1), joint.sum(0)), joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def levels(v: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Return a volume (x, y, z) as levels of brightness, each with as many voxels of the brain."""
    return np.digitize(v, np.quantile(v[brain], np.linspace(0, 1, LEVELS + 1)[1:-1]))


def shifted_modalities(volumes: Mapping[str, np.ndarray], brain: np.ndarray, affine: np.ndarray) -> list[str]:
    """Return a sentence for each pair of modalities that fit better when one of them is moved by millimetres.

    Images of one head share most information where they lie on each other, whatever their contrast (Wells et al. 1996).

    Args:
        volumes: (x, y, z) in LPS by modality.
        brain: bool (x, y, z).
        affine: (4, 4), voxel index to millimetres.
    """
    from scipy import ndimage

    step = [max(1, round(COARSE / s)) for s in voxel_size(affine)]
    thin = tuple(slice(None, None, n) for n in step)
    sides, small = voxel_size(affine) * step, brain[thin]
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(small, 1), sampling=sides))
    inner = depth[1:-1, 1:-1, 1:-1] > RIM
    if len(volumes) < 2 or not inner.any():
        return []
    found = {m: levels(v[thin], small) for m, v in volumes.items()}
    notes = []
    for one, other in itertools.combinations(found, 2):
        a, b = found[one][inner], found[other]
        here = mutual_information(a, b[inner])
        moved = {
            (axis, mm): mutual_information(a, np.roll(b, round(mm / sides[axis]), axis)[inner])
            for axis in range(3)
            for mm in SHIFT
            if round(mm / sides[axis])
        }
        axis, mm = max(moved, key=lambda k: moved[k], default=(0, 0.0))
        if moved and moved[axis, mm] > BETTER * here:
            notes.append(f"{one} and {other} seem to lie millimetres apart, {AXES[axis]}; register them to each other")
    return notes


def cut_off(brain: np.ndarray, affine: np.ndarray) -> list[str]:
    """Return a sentence if the brain, bool (x, y, z) in LPS, ends at a face of the volume other than the bottom."""
    sides = voxel_size(affine)
    if brain.shape[2] * sides[2] < WHOLE:
        return []
    found = []
    for axis, end in itertools.product(range(3), (0, -1)):
        pixel = np.prod(sides) / sides[axis] / 100
        if (axis, end) != (2, 0) and np.take(brain, end, axis).sum() * pixel > CUT:
            found.append(SIDES[2 * axis - end])
    return [f"the brain is cut off at the {' and the '.join(found)} of the image; use the whole scan"] if found else []
