"""Where the brain is in skull-stripped images: what differs from the background; and whether it can be a brain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

COMMON = 0.1  # share of the voxels that are not 0: a background other than 0 has more
MOST_ML = 2500.0  # millilitres; no brain has more
LEAST_ML, HEAD = 200.0, 140.0  # a brain has more millilitres, where the scan measures so many millimetres each way
MOST_AREA = 260.0  # square centimetres; hardly a brain has more on one axial slice
MOST_BOX = 0.9  # share of its box that a brain may fill
UNMEASURED = 0.01  # share of the brain: larger regions of 0 are named and left out of statistics
ENCLOSED = 0.03  # share of the brain: so much must be 0 within axial slices, not to be taken for ventricles
REGION = 4.0  # millimetres: such a region reaches so far within an axial slice, each way from its middle
LEAST_INSIDE, MOST_LESION = 0.75, 0.75  # share of the lesion in the brain, and of the brain that is lesion
MOST_NEGATIVE = 0.95  # share of the brain: more negative voxels are named
WRAPPED = (1e-3, 0.4)  # share of the brain: so many negative voxels are odd among whole numbers
AT_ENDS = (0.9, 1e-3)  # of the range of a type, and share of the brain beyond it at either end where values wrapped


def box_of(a: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box around what differs from 0 in `a` (x, y, z), as slices; empty ones where nothing does."""

    def ends(line: np.ndarray) -> slice:
        return slice(int(line.argmax()), len(line) - int(line[::-1].argmax())) if line.any() else slice(0, 0)

    z = ends(np.any(a, (0, 1)))
    flat = np.any(a[:, :, z], 2)
    return ends(flat.any(1)), ends(flat.any(0)), z


def fill_slices(mask: np.ndarray) -> np.ndarray:
    """Fill the holes of each axial slice of a mask (x, y, z).

    A hole is background that no path within the slice joins to the border of the slice.
    """
    from scipy import ndimage

    page = np.zeros((3, 3, 3), bool)
    page[1] = ndimage.generate_binary_structure(2, 1)  # neighbours within a slice
    rim = np.pad(mask.T, ((0, 0), (1, 1), (1, 1)))  # a rim of background, all of it one piece
    pieces, n = ndimage.label(~rim, page)
    inside = np.ones(n + 1, bool)
    inside[pieces[:, 0, 0]] = False  # every piece but those of the rims
    return inside[pieces[:, 1:-1, 1:-1]].T


def least_signal(v: np.ndarray) -> float:
    """Return the size above which a voxel of `v` (x, y, z) counts as signal, of the same type as the voxels.

    It is a thousandth of a mean in which each voxel is weighted by its own size, so that background does not count.
    """
    squares = total = 0.0
    for page in v.T:
        size = np.abs(page).astype(np.float64).ravel("K")
        squares, total = squares + np.square(size).sum(), total + size.sum()
    exact = 1e-3 * squares / max(total, 1e-30)
    least = v.dtype.type(exact) if v.dtype.kind == "f" else exact
    # rounded down: no voxel between the two is lost
    return least if least <= exact else np.nextafter(least, v.dtype.type(0))


def faces(a: np.ndarray, axis: int) -> np.ndarray:
    """Return the first and the last layer of a volume (x, y, z) along an axis."""
    return np.take(a, (0, -1), axis)


def background_value(v: np.ndarray) -> float:
    """Return the value that `v` (x, y, z) has outside the brain: 0, or the lowest other one where that surrounds it.

    The lowest value counts where many of the voxels that are not 0 have it, and most of those on the faces of their
    box, along two axes at least: zeros may be padded around it. What is common inside a brain lies elsewhere.
    """
    few = v[tuple(slice(None, None, max(1, n // 64)) for n in v.shape)]
    few = few[few != 0]
    if not len(few) or (few == (least := few.min())).mean() < COMMON:
        return 0.0
    at = v == least
    n, total = np.count_nonzero(at), np.count_nonzero(v)
    surrounds = sum(faces(at[box_of(v)], axis).mean() > 0.5 for axis in range(3)) >= 2
    return float(least) if COMMON * total < n < total and surrounds else 0.0


def without_background(v: np.ndarray) -> np.ndarray:
    """Return `v` (x, y, z) moved so that its background is 0, as are zeros that reach the faces of the volume."""
    from scipy import ndimage

    background = background_value(v)
    if not background:
        return v
    moved = v - np.float32(background)
    if background < 0:
        pieces, n = ndimage.label(v == 0)
        padding = np.zeros(n + 1, bool)
        for axis in range(3):
            padding[faces(pieces, axis)] = True
        padding[0] = False
        moved[padding[pieces]] = 0
    return moved.clip(0)


def brain_mask(volumes: Mapping[str, np.ndarray], name: object = "the case") -> np.ndarray:
    """Return where any modality differs from its background: large pieces only, holes filled slice by slice.

    Args:
        volumes: (x, y, z) by modality; the background is 0 or, where that surrounds the brain, the lowest value; one
            modality is enough.
        name: what to call the case in an error.

    Returns:
        bool (x, y, z).

    Raises:
        ValueError: if every voxel is background, or hardly any is.
    """
    from scipy import ndimage

    mask, full = np.zeros_like(next(iter(volumes.values())), bool), []
    for m, v in volumes.items():
        v = without_background(v)
        box = box_of(v)
        least = least_signal(v[box])
        part = (v[box] > least) | (v[box] < -least)
        mask[box] |= part
        full += [m] * bool(np.count_nonzero(part) > 0.99 * mask.size)
    if not mask.any():
        raise ValueError(f"Cannot find the brain of {name}: every voxel is 0; check the image.")
    if np.count_nonzero(mask) > 0.99 * mask.size:
        where = f" in {' and '.join(full)}" if full and len(volumes) > 1 else ""
        reason = f"its background is not 0{where}; remove the skull first (mmccd strip)"
        raise ValueError(f"Cannot find the brain of {name}: {reason}.")
    box = box_of(mask)
    pieces, n = ndimage.label(mask[box].T)
    sizes = np.bincount(pieces.ravel())[1:] if n > 1 else np.ones(1)
    if (sizes < sizes.max() / 20).any():
        mask[box] = np.append(False, sizes >= sizes.max() / 20)[pieces].T
    mask[box] = fill_slices(mask[box])
    return mask


def check_brain(mask: np.ndarray, affine: np.ndarray, name: object = "the case") -> list[str]:
    """Return what makes a mask (x, y, z) doubtful as that of a brain; nothing where it is plausible.

    Args:
        mask: bool; of a whole head, or of any part of one.
        affine: (4, 4), voxel index to millimetres.
        name: what to call the case in an error.

    Raises:
        ValueError: if no brain can be so large.
    """
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    ml, box = np.count_nonzero(mask) * abs(np.linalg.det(affine[:3, :3])) / 1000, mask[box_of(mask)]
    if ml > MOST_ML:
        reason = f"what differs from the background has {ml:.0f} ml, more than any brain"
        todo = "remove the skull first (mmccd strip), set the background to 0, and check the voxel size"
        raise ValueError(f"Cannot find the brain of {name}: {reason}; {todo}.")
    if not ml:
        return []
    notes = []
    whole = not any(faces(mask, axis).any() for axis in range(3))  # and no part of a head
    expected = LEAST_ML * (1.0 if whole else np.minimum(sides * mask.shape / HEAD, 1).prod())
    if ml < expected:
        notes.append(f"only {ml:.3g} ml were taken for brain, less than a head has; check image and voxel size")
    area = np.count_nonzero(mask, (0, 1)).max() * np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])) / 100
    if area > MOST_AREA:
        notes.append(
            f"up to {area:.0f} square centimetres of a slice were taken for brain; is the skull removed (mmccd strip)?"
        )
    if min(box.shape) > 1 and box.mean() > MOST_BOX:
        notes.append(f"what was taken for brain fills {box.mean():.0%} of its box; is the background one value?")
    return notes


def check_lesion(lesion: np.ndarray | None, brain: np.ndarray) -> list[str]:
    """Return what makes a lesion doubtful; both bool (x, y, z), the lesion None where it is not known."""
    if lesion is None or not lesion.any():
        return []
    n, inside = np.count_nonzero(lesion), np.count_nonzero(lesion & brain)
    if inside < LEAST_INSIDE * n:
        return [f"{1 - inside / n:.0%} of its lesion lies outside the brain; check segmentation and background"]
    if inside > MOST_LESION * np.count_nonzero(brain):
        return [f"its lesion fills {inside / np.count_nonzero(brain):.0%} of the brain; is it one?"]
    return []


def unmeasured(v: np.ndarray, brain: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
    """Return where a modality is background within the brain because it was not measured there.

    A region counts that is more than a thin rim and reaches the outside of the brain within its axial slice, or is
    larger than ventricles that are 0; a modality may cover fewer slices than the others, be cut, or have a gap.

    Args:
        v: the modality (x, y, z).
        brain: of the case, bool (x, y, z).
        affine: (4, 4), voxel index to millimetres.

    Returns:
        bool (x, y, z); None where there is no such region worth naming.
    """
    from scipy import ndimage

    missing, n = brain & (without_background(v) == 0), np.count_nonzero(brain)
    if not n or np.count_nonzero(missing) < UNMEASURED * n:
        return None
    enclosed = missing & fill_slices(brain & ~missing)
    if np.count_nonzero(enclosed) < ENCLOSED * n:  # a ventricle may be 0
        missing &= ~enclosed
    steps = [np.arange(-int(REGION / s), int(REGION / s) + 1) * s for s in np.linalg.norm(affine[:3, :2], axis=0)]
    disc = np.hypot(*np.meshgrid(*steps, indexing="ij"))[..., None] <= REGION
    if np.count_nonzero(ndimage.binary_opening(missing, disc)) < UNMEASURED * n:
        return None
    return missing


def check_values(v: np.ndarray, brain: np.ndarray) -> list[str]:
    """Return what is odd about the values of a modality (x, y, z) in the brain, bool (x, y, z)."""
    background, inside = background_value(v), v[brain]
    if background:
        return [f"its background is {background:g}, not 0; that was taken for outside the brain"]
    low, high, share = float(v.min()), float(v.max()), np.count_nonzero(inside < 0) / max(len(inside), 1)
    if share > MOST_NEGATIVE:
        return [f"{share:.0%} of its brain is negative; is the sign of its values wrong?"]
    for bits in (8, 16, 32):
        limit = 2.0 ** (bits - 1)
        wide = -limit <= low < -limit / 4 and limit / 4 < high <= limit  # of numbers of so many bits
        ends = [np.count_nonzero(s * inside > AT_ENDS[0] * limit) > AT_ENDS[1] * len(inside) for s in (1, -1)]
        odd = WRAPPED[0] < share < WRAPPED[1] or all(ends)
        if wide and odd and (inside == inside.round()).all():
            large = f"values above {limit - 1:.0f} were saved as int{bits}"
            return [f"{share:.1%} of its brain is negative, as where {large}; export it again as uint{bits} or float32"]
    return []
