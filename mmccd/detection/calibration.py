"""Thresholds: chosen on healthy cases of the user, and compared with the maps they are used on."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.health import check_no_lesion
from mmccd.cases.names import choose_files, find_cases
from mmccd.cases.subjects import few_subjects_notes, subject_of
from mmccd.cluster import open_workers
from mmccd.detection.inputs import input_of
from mmccd.detection.maps import anomaly_volume
from mmccd.detector import Detector, healthy_threshold
from mmccd.postprocess import PostProcess
from mmccd.progress import track
from mmccd.runtime import pick_device

UNPROCESSED = PostProcess()
"""The map as the detector makes it."""


def stored_postprocessing(record: Mapping[str, Any] | None) -> PostProcess:
    """Return the post-processing that a calibration or a `detect.json` speaks of; none where it says nothing."""
    try:
        return PostProcess(**record["post"])  # type: ignore[index]  a missing record says nothing
    except (KeyError, TypeError, ValueError):
        return UNPROCESSED


def threshold_note(detector: Detector, post: PostProcess) -> str:
    """Return one sentence of warning if the threshold was calibrated on maps made otherwise, "" if it fits.

    Args:
        detector: calibrated, or not, which gives "".
        post: what is done to the maps now. Pieces that are dropped only lower the share of healthy brain that is
            marked, so they need no warning.
    """
    made, now = (replace(p, smallest=0.0) for p in (stored_postprocessing(detector.calibration), post))
    if made == now or detector.calibration is None:
        return ""

    def words(p: PostProcess) -> str:
        return f"post-processing ({p})" if p else "no post-processing"

    return (
        f"the threshold was calibrated on maps with {words(made)} and is used on maps with {words(now)}, so it marks "
        "another share of a healthy brain than it promises; calibrate anew with --healthy"
    )


def healthy_values(
    detector: Detector, input: str, post: PostProcess, seed: int, path: str | Path
) -> tuple[np.ndarray, list[str]]:
    """Return the values (n,) of a healthy case's map inside its brain, or refuse a case with a lesion.

    With them comes what a person should know of how the case was read.
    """
    if Path(path).is_file():
        choose_files(path)  # refuses a name without modality
    chosen = input_of(path, detector, input)
    case = Case.load(path, chosen.split("+"))
    if case.lesion is not None and case.lesion.any():
        raise ValueError(f"Cannot calibrate on {case.id}: it has a lesion; give healthy cases only.")
    check_no_lesion(case, path)
    anomaly = anomaly_volume(case, detector, chosen, seed)
    values = post.map(anomaly, case.brain, voxel_size(case.affine))[case.brain]
    return values, [f"{case.id}: {note}" for note in case.notes]


@dataclass(frozen=True)
class HealthyWorker:
    """What a worker needs to make maps of healthy cases; sent to each once."""

    detector: Detector  # on the CPU
    device: str
    rest: tuple[str, PostProcess, int]  # input, post-processing and seed, as for `healthy_values`

    def __call__(self) -> tuple[Any, ...]:
        """Return what the cases of a worker share."""
        return self.detector.to(pick_device(self.device)), *self.rest


def values_by_case(
    cases: Sequence[tuple[str, str | Path]],
    detector: Detector,
    rest: tuple[str, PostProcess, int],
    scheduler: str = "",
    device: str = "",
) -> Generator[tuple[str, tuple[np.ndarray, list[str]]]]:
    """Yield the name of each case and its `healthy_values`; those of a scheduler's workers in any order."""
    if not scheduler:
        yield from ((id, healthy_values(detector, *rest, path)) for id, path in cases)
        return
    setup = HealthyWorker(deepcopy(detector).cpu(), device or detector.device.type, rest)
    tasks = [(id, healthy_values, os.path.abspath(path)) for id, path in cases]
    with open_workers(1, scheduler, setup, [path for *_, path in tasks]) as workers:
        for id, done in workers.results(tasks):
            yield id, done.result()


def recalibrate(
    detector: Detector,
    healthy: str | Path | Sequence[str | Path],
    input: str | None = None,
    post: PostProcess = UNPROCESSED,
    fpr: float = 0.01,
    seed: int = 0,
    progress: bool = False,
    scheduler: str = "",
    device: str = "",
) -> Detector:
    """Return `detector` with its threshold chosen on healthy cases, whose maps are made like all others.

    Args:
        detector: any detector; its `calibration` is replaced.
        healthy: healthy cases: folders, folders of cases, or NIfTI files.
        input: modality; None is the one the detector is made for.
        post: what will be done to the maps of other cases too.
        fpr: share of the healthy brain that may lie above the threshold, in (0, 1).
        seed: of the randomness, for detectors that draw.
        progress: show a bar on a terminal, elsewhere a line now and then.
        scheduler: address or file of a Dask scheduler whose workers make the maps, as for `detect_many`.
        device: where networks run on these workers; "" is where the detector is here.

    Raises:
        ValueError: if no case is given, one cannot be read or has a lesion, or `fpr` is not in (0, 1).
    """
    notes: list[str] = []
    cases, input = find_cases(healthy, notes), input or detector.config.input
    if not cases:
        raise ValueError("Cannot calibrate without a healthy case, and none was given; name folders or NIfTI files.")
    with closing(values_by_case(cases, detector, (input, post, seed), scheduler, device)) as made:
        found = dict(track(made, "calibrate", "case", total=len(cases), show=progress))
    v = torch.from_numpy(np.concatenate([found[id][0] for id, _ in cases]))
    notes += [note for id, _ in cases for note in found[id][1]]
    h = healthy_threshold(v, fpr)
    people = {subject_of(id) for id, _ in cases}
    notes += few_subjects_notes(len(people), "healthy")
    detector.calibration = {
        "threshold": h,
        "fpr": fpr,
        "fpr_reached": (v > h).double().mean().item(),
        "pixels": len(v),
        "cases": [id for id, _ in cases],
        "data": "healthy cases of the user",
        "post": asdict(post),
    } | ({"notes": notes} if notes else {})
    return detector
