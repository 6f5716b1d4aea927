"""Slices of phantoms at the size of the networks, with what only a phantom knows, for chapters and guides."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from mmccd.cases.case import Case
from mmccd.phantom import Phantom
from mmccd.scanner import HEALTHY
from mmccd.slices import resize, resize_labels, to_slices


def phantom_slices(
    phantom: Phantom, size: int = 64, modalities: Sequence[str] = ("flair", "t1", "t2")
) -> dict[str, Tensor]:
    """Return all slices of a phantom at `size` pixels, each tensor of shape (n 1 size size).

    Args:
        phantom: From `mmccd.phantom.make_phantom`. Brightness is normalised over the slices it holds.
        size: Pixels along a side.
        modalities: Names of the images to include.

    Returns:
        `"flair"`, ...: normalised images. `"twin flair"`, ...: the same head without the lesion, on the patient's own
        scale (of a healthy head: the head itself). `"brain"`, `"lesion"`: bool. `"tissue csf"`, ...: share of each
        healthy tissue in a pixel, from 0 to 1; under a lesion it is the tissue of the twin.
    """
    case = Case.from_phantom(phantom, modalities=list(modalities))
    out = {m: resize(case.slices(m), size) for m in modalities}
    for m in modalities:
        twin = phantom.twin[m] if phantom.twin else phantom.volumes[m]
        scale = np.polyfit(phantom.volumes[m][case.brain], case.normalised(m)[case.brain], 1)
        twin = np.where(case.brain, np.polyval(scale, twin), -1).astype(np.float32)
        out[f"twin {m}"] = resize(to_slices(twin), size)
    out["brain"] = resize_labels(to_slices(case.brain), size)
    out["lesion"] = resize_labels(to_slices(phantom.labels > 0), size)
    for number, name in enumerate(HEALTHY, 1):
        out[f"tissue {name}"] = resize(to_slices(phantom.tissue == number).float(), size, 0.0)
    return out


def largest_lesion(slices: dict[str, Tensor]) -> int:
    """Return the index of the slice with most lesion; of a healthy head that of the middle slice."""
    lesion = slices["lesion"].flatten(1).sum(1)
    return int(lesion.argmax()) if lesion.any() else len(lesion) // 2


def lesion_slice(slices: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return only the slice with most lesion, each tensor of shape (1 1 h w); of a healthy head the middle slice."""
    k = largest_lesion(slices)
    return {name: v[k : k + 1] for name, v in slices.items()}
