""""""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.names import choose_files, find_cases
from mmccd.detection.maps import anomaly_volume
from mmccd.detector import Detector, healthy_threshold
from mmccd.postprocess import PostProcess


def stored_postprocessing(
    record: dict | None,  # a calibration or a detect.json
) -> PostProcess:  # off where it says nothing
    "Which post-processing does a record speak of?"
    try:
        return PostProcess(**record["post"])
    except (KeyError, TypeError, ValueError):
        return PostProcess()


def threshold_note(
    detector: Detector,  # calibrated
    post: PostProcess,  # what is done to its maps
) -> str:  # one sentence; empty where the threshold fits
    "Is the threshold used on maps like those it was calibrated on?"
    made, now = (replace(p, smallest=0.0) for p in (stored_postprocessing(detector.calibration), post))
    if made == now or detector.calibration is None:
        return ""

    def words(p):
        return f"post-processing ({p})" if p else "no post-processing"

    return (
        f"the threshold was calibrated on maps with {words(made)} and is used on maps with {words(now)}, so it marks another share "
        "of a healthy brain than it promises; calibrate anew with --healthy"
    )


def recalibrate(
    detector: Detector,  # any detector
    healthy,  # healthy cases: folders, folders of cases, NIfTI files
    input: str | None = None,  # modality to look at; None: the one the detector is made for
    post=PostProcess(),  # what will be done to the maps of other cases too
    fpr: float = 0.01,  # share of the healthy brain allowed above the threshold, in (0, 1)
    seed: int = 0,  # of the randomness, for detectors that draw
    progress: bool = False,  # a bar, if on a terminal
) -> Detector:  # the same detector, with `calibration` set
    "Choose the threshold on healthy cases, their maps processed like all others."
    from tqdm import tqdm

    values, ids, input = [], [], input or detector.config.input
    for id, path in tqdm(find_cases(healthy), desc="calibrate", unit="case", disable=None if progress else True):
        if Path(path).is_file():
            choose_files(path)  # refuses a name without modality
        case = Case.load(path, [input])
        if case.lesion is not None and case.lesion.any():
            raise ValueError(f"Cannot calibrate on {id}: it has a lesion; give healthy cases only.")
        values.append(
            post.map(anomaly_volume(case, detector, input, seed), case.brain, voxel_size(case.affine))[case.brain]
        )
        ids.append(id)
    h = healthy_threshold(v := torch.from_numpy(np.concatenate(values)), fpr)
    detector.calibration = {
        "threshold": h,
        "fpr": fpr,
        "fpr_reached": (v > h).double().mean().item(),
        "pixels": len(v),
        "cases": ids,
        "data": "healthy cases of the user",
        "post": asdict(post),
    }
    return detector
