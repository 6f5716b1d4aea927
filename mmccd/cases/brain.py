"""Where the brain is in skull-stripped images: what differs from the background 0."""

import numpy as np


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


def brain_mask(volumes: dict[str, np.ndarray], name: object = "the case") -> np.ndarray:
    """Return where any modality differs from 0: large pieces only, holes filled slice by slice.

    Args:
        volumes: (x, y, z) by modality, background 0; one modality is enough.
        name: what to call the case in an error.

    Returns:
        bool (x, y, z).

    Raises:
        ValueError: if every voxel is 0, or hardly any is.
    """
    from scipy import ndimage

    mask = np.zeros_like(next(iter(volumes.values())), bool)
    for v in volumes.values():
        box = box_of(v)
        least = least_signal(v[box])
        mask[box] |= (v[box] > least) | (v[box] < -least)
    if not mask.any():
        raise ValueError(f"Cannot find the brain of {name}: every voxel is 0; check the image.")
    if np.count_nonzero(mask) > 0.99 * mask.size:
        reason = "its background is not 0; remove the skull first (skull stripping)"
        raise ValueError(f"Cannot find the brain of {name}: {reason}.")
    box = box_of(mask)
    pieces, n = ndimage.label(mask[box].T)
    sizes = np.bincount(pieces.ravel())[1:] if n > 1 else np.ones(1)
    if (sizes < sizes.max() / 20).any():
        mask[box] = np.append(False, sizes >= sizes.max() / 20)[pieces].T
    mask[box] = fill_slices(mask[box])
    return mask
