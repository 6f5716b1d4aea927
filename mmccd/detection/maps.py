"""Anomaly maps of slices and of whole cases, whatever size the detector was trained at."""

from collections.abc import Sequence

import numpy as np
import torch

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.detector import Detector
from mmccd.ensemble import TRANSLATE, Ensemble, translation_map
from mmccd.intensity import BACKGROUND, DEFAULT
from mmccd.runtime import check_stop
from mmccd.slices import FOV, Region, field_of_view, resize, resize_back, resize_labels, to_slices, to_volume


def map_slices(
    detector: Detector,
    x: torch.Tensor,
    brain: torch.Tensor,
    generator: torch.Generator | None = None,
    region: Region | None = None,
) -> torch.Tensor:
    """Return the anomaly maps of slices, made at the size the detector was trained at.

    Args:
        detector: any detector. Where its config has a `size`, slices are resized to it and maps back.
        x: slices (b 1 h w), normalised as the detector's config says.
        brain: where the brain is, bool (b 1 h w).
        generator: source of randomness on the detector's device, for detectors that draw.
        region: the part of the slices that is the detector's field of view, from `slices.field_of_view`; None: all of
            them, padded to a square.

    Returns:
        Maps (b 1 h w), float32, 0 or more, 0 outside the brain.

    Raises:
        KeyboardInterrupt: if the work of this thread has been asked to stop (`runtime.stopped_by`).
    """
    check_stop()
    size = getattr(detector.config, "size", None)
    if not size:
        return detector.anomaly_map(x, brain, generator)
    edge = BACKGROUND.get(getattr(detector.config, "normalisation", DEFAULT), -1.0)
    a = detector.anomaly_map(resize(x, size, edge, region), resize_labels(brain, size, region), generator)
    return torch.where(brain, resize_back(a, x.shape[-2:], region), 0.0)


def region_for(detector: Detector, case: Case) -> Region | None:
    """Return the part of a case's axial slices that a detector takes; None for one that takes slices of any size.

    A case with coarser pixels than those of the detector gets a note.

    Raises:
        ValueError: if the case has pixels too coarse for a network, or a brain larger than its field of view.
    """
    size, fov = (getattr(detector.config, k, None) for k in ("size", "fov"))
    if not size:
        return None
    region = field_of_view(case.brain, case.affine, fov or FOV, case.id)
    pixel, own = (fov or FOV) / size, voxel_size(case.affine)[:2]
    note = (
        f"its axial slices have pixels of {own[0]:.3g} x {own[1]:.3g} mm, coarser than the {pixel:.3g} mm of these "
        "weights, so healthy tissue may look abnormal; prefer a scan with finer ones"
    )
    if max(own) > 1.01 * pixel and note not in case.notes:
        case.notes.append(note)
    return region


def anomaly_volume(case: Case, detector: Detector, input: str, seed: int = 0, batch_size: int = 16) -> np.ndarray:
    """Return the anomaly map of a whole case.

    Slices without brain are left out. The others go through the detector a few at a time, with the generator seeded
    anew for each batch, so that a detector that draws one slice's noise for all slices of a batch gives the same map
    whatever the batch size.

    Args:
        case: with the modality `input`.
        detector: any detector, calibrated or not.
        input: modality; of an ensemble one of its choices.
        seed: of the randomness, for detectors that draw.
        batch_size: slices at a time, a matter of memory only.

    Returns:
        The map (x, y, z) in LPS, float32, 0 or more, 0 outside the brain.

    Raises:
        ValueError: if the case has no such modality, or `region_for` refuses it.
    """
    if isinstance(detector, Ensemble):
        maps = member_maps(case, detector, input, seed, batch_size)
        return to_volume(detector.combine(maps, to_slices(case.brain), input))
    x = case.slices(input, method=getattr(detector.config, "normalisation", DEFAULT))
    brain, device, region = to_slices(case.measured(input)), detector.device, region_for(detector, case)
    a = torch.zeros_like(x)
    for i in brain.flatten(1).any(1).nonzero().flatten().split(batch_size):
        generator = torch.Generator(device).manual_seed(seed)
        a[i] = map_slices(detector, x[i].to(device), brain[i].to(device), generator, region).cpu()
    return to_volume(a)


def member_maps(
    case: Case, ensemble: Ensemble, choice: str, seed: int = 0, batch_size: int = 16
) -> dict[str, torch.Tensor]:
    """Return the anomaly maps of a whole case by each member of an ensemble.

    Args:
        case: with the modalities of the choice.
        ensemble: calibrated or not.
        choice: one of those in its config, such as "flair+t2".
        seed: of the randomness, for members that draw.
        batch_size: slices at a time, a matter of memory only.

    Returns:
        By name of the member, all slices (z 1 h w), as `anomaly_volume` makes them.
    """
    maps: dict[str, torch.Tensor] = {}
    for name in ensemble.config.choices[choice]:
        d = ensemble.member(name)
        if name.startswith(TRANSLATE):
            maps[name] = translation_maps(case, d, batch_size)
        else:
            maps[name] = to_slices(anomaly_volume(case, d, d.config.input, seed, batch_size)).float()
    return maps


@torch.no_grad()
def translation_maps(
    case: Case, cycle: Detector, batch_size: int = 16, index: Sequence[int] | None = None
) -> torch.Tensor:
    """Return the error of a modality as it is drawn from another one that was measured; see `translation_map`.

    Args:
        case: with the cycle's input and target.
        cycle: a `CyclicUNet`.
        batch_size: slices at a time, a matter of memory only.
        index: axial slices; None: all.

    Returns:
        Maps (n 1 h w), float32, 0 or more, 0 outside the brain.
    """
    c, region, brain = cycle.config, region_for(cycle, case), case.brain_slices(index)
    edge = BACKGROUND.get(c.normalisation, -1.0)
    x, y = (case.slices(m, index, c.normalisation) for m in (c.input, c.target))
    a = torch.zeros_like(x)
    for i in brain.flatten(1).any(1).nonzero().flatten().split(batch_size):
        check_stop()
        inside = resize_labels(brain[i], c.size, region).to(cycle.device)
        given, other = (resize(v[i], c.size, edge, region).to(cycle.device) for v in (x, y))
        error = translation_map(cycle, given, other, inside).cpu()
        a[i] = torch.where(brain[i], resize_back(error, x.shape[-2:], region), 0.0)
    return a
