""""""

from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from mmccd import scoring
from mmccd.cases.case import Case
from mmccd.cases.grid import check_same_grid, protocol_slices, volume_ml, voxel_size
from mmccd.cases.names import find_cases
from mmccd.cases.nifti import read_volume
from mmccd.detection.calibration import stored_postprocessing
from mmccd.errors import file_error, format_error
from mmccd.files import read_json


def read_result(
    id: str,  # of the case
    out,  # folder of the results
    path,  # folder of the truth
    modality: str | None = None,  # what the detector saw: its brain counts; None: all modalities
) -> tuple:  # (anomaly (x, y, z) in LPS, the truth's `Case`)
    "One case's map and truth, on one grid."
    file = Path(out) / id / f"{id}_anomaly.nii.gz"
    if path is None:
        raise ValueError(f"Cannot score {id}: there is no case of this name among the truth; check the folder.")
    case = Case.load(path, modality and [modality])
    if case.lesion is None:
        raise ValueError(
            f"Cannot score {id}: {path} has no segmentation; add the file {id}_seg.nii.gz (all 0 if healthy)."
        )
    anomaly, grid = read_volume(file)
    check_same_grid(grid, file, case.grid, path)
    return anomaly, case


def case_shapes(
    anomaly: np.ndarray,  # (x, y, z)
    case: Case,  # with the truth
    protocol: str,  # "slice" or "volume"
    threshold,  # calibrated, or None
) -> tuple:  # what `score_shapes` says of the map, and of the floor; of the map the size of the lesion only if there is no threshold
    "Distances in mm, lesions found and false ones, in what the protocol looks at."
    at = (
        (...,)
        if protocol == "volume"
        else (..., scoring.worst_slice(case.lesion, case.brain, protocol_slices(anomaly.shape, case.affine)))
    )
    truth, brain = case.lesion[at], case.brain[at]

    def score(marked):
        return scoring.score_shapes(marked, truth, brain, voxel_size(case.affine)[: truth.ndim])

    floor = score(brain)
    return {"size": floor["size"]} if threshold is None else score(anomaly[at] > threshold), floor


ALARMS = ("fpr", "volume_ml", "cm2_a_slice", "false_a_slice")


def false_alarm(
    id: str,  # of a case without lesion
    anomaly: np.ndarray,  # (x, y, z)
    case: Case,  # with its brain
    threshold,  # calibrated, or None
) -> dict:  # fpr (share of the brain), volume_ml, and a slice: cm2_a_slice, false_a_slice (pieces, counted slice by slice); all None without a threshold
    "How much of a healthy brain is called abnormal, in the whole volume whatever the protocol."
    if threshold is None:
        return {"id": id, **dict.fromkeys(ALARMS)}
    wrong = (anomaly > threshold) & case.brain
    area = scoring.false_area(wrong, case.brain, voxel_size(case.affine))
    return {
        "id": id,
        "fpr": area["share"],
        "volume_ml": round(volume_ml(wrong, case.affine), 3),
        "cm2_a_slice": round(area["cm2"], 4),
        "false_a_slice": area["false_a_slice"],
    }


def score_case(
    id: str,  # of the case
    anomaly: np.ndarray,  # (x, y, z)
    case: Case,  # with the truth
    protocol: str,  # "slice" or "volume"
    threshold,  # calibrated, or None
) -> tuple:  # ("lesion", ((id, score, truth), shapes, shapes of the floor)) or ("healthy", record)
    "The pixels and shapes that count in a case with a lesion; the false positives of one without."
    if not case.lesion.any():
        return "healthy", false_alarm(id, anomaly, case, threshold)
    if protocol == "volume":
        score, truth = scoring.volume_protocol(anomaly, case.lesion, case.brain)
    else:
        score, truth = scoring.slice_protocol(
            anomaly, case.lesion, case.brain, protocol_slices(anomaly.shape, case.affine)
        )
    if truth.any():
        return "lesion", ((id, score, truth), *case_shapes(anomaly, case, protocol, threshold))
    todo = "check its brain mask" if protocol == "volume" else "use the volume protocol"
    raise ValueError(
        f"Cannot score {id}: it has no lesion in the slices and the brain that the {protocol} protocol looks at; {todo}."
    )


def result_ids(
    out,  # folder of results
    run: dict,  # what its detect.json holds; empty where there is none
    only="*",  # pattern of the names that are wanted
) -> list[str]:  # names of the cases to score
    "The cases that have a map."
    if not Path(out).is_dir():
        raise ValueError(f"Cannot read {out}: there is no such folder; check the path.")
    maps = sorted(
        p.parent.name for p in Path(out).glob("*/*_anomaly.nii.gz") if p.name == f"{p.parent.name}_anomaly.nii.gz"
    )
    ids = [c["id"] for c in run["cases"] if c["status"] != "failed"] if "cases" in run else maps
    if not ids:
        raise ValueError(f"Cannot score {out}: it holds no anomaly maps; run detect first.")
    wanted = [id for id in ids if fnmatchcase(id, only)]
    if not wanted:
        raise ValueError(
            f"Cannot score {out}: the pattern {only!r} fits none of its cases, such as {ids[0]}; put a * for any letters."
        )
    return wanted


def pair_cases(
    out,  # folder of results
    truth,  # case folders, or a folder of them
    run: dict,  # what its detect.json holds
    only="*",  # pattern of the names that are wanted
) -> tuple:  # (names of the cases to score, paths of the truth by name)
    "The cases with a map, and those with a truth; some must be both."
    ids = result_ids(out, run, only)
    for path in [truth] if isinstance(truth, (str, Path)) else truth:
        if not Path(path).exists():
            raise file_error(path, "there is no such folder", "check the path of the truth")
    truths = {id: path for id, path in find_cases(truth) if fnmatchcase(id, only)}
    if not set(ids) & set(truths):
        raise ValueError(
            f"Cannot score {out}: none of its cases (such as {ids[0]}) is in the truth (such as {next(iter(truths), 'nothing')}); check both folders."
        )
    return ids, truths


def score_found(
    lesion: list,  # what `score_case` says of cases with a lesion
    healthy: list,  # records of those without
    threshold,  # calibrated, or None
    protocol: str,  # "slice" or "volume"
) -> dict:  # `scores` and `floor` (None without lesions), `by_size` (Dice), `healthy`, `healthy_summary`
    "From cases to means."
    subjects, shapes, floors = ([s[k] for s in lesion] for k in range(3))

    def score(subjects, h, shapes, **origin):
        return scoring.score_subjects(subjects, h, protocol, shapes=shapes, **origin) if subjects else None

    scores = score(subjects, threshold, shapes)
    rows = scores["subjects"] if scores else []
    return {
        "scores": scores,
        "floor": score(scoring.everything_positive(subjects), 0.0, floors, origin="none: everything is marked"),
        "by_size": scoring.by_size(rows, "dice", [r["size"] for r in rows], scoring.SIZES[protocol]),
        "healthy": healthy,
        "healthy_summary": {k: scoring.summarise(healthy, k) for k in ALARMS},
    }


def evaluate(
    out,  # folder of results, as `detect_many` leaves it
    truth,  # case folders, or a folder of them, with segmentations
    protocol="slice",  # "slice" or "volume"
    stop: bool = False,  # raise the first error instead of noting it
    only="*",  # pattern of the cases that count, such as "*glioma*"
) -> dict:  # JSON-able: `detector`, `calibration`, what `score_found` gives (`healthy`: whole volumes under either protocol), `errors`, `without_map` (cases of the truth nobody looked at)
    "Score a folder of results."
    if protocol not in ("slice", "volume"):
        raise ValueError(f"unknown protocol {protocol!r}: choose slice or volume")
    run = read_json(Path(out) / "detect.json")
    (ids, truths), found, errors = pair_cases(out, truth, run, only), {"lesion": [], "healthy": []}, []
    threshold = (run.get("calibration") or {}).get("threshold")
    for id in ids:
        try:
            kind, scored = score_case(id, *read_result(id, out, truths.get(id), run.get("input")), protocol, threshold)
        except (ValueError, OSError) as error:
            if stop:
                raise
            errors.append({"id": id, "error": format_error(error)})
        else:
            found[kind].append(scored)
    head = {
        "mmccd": run.get("mmccd"),
        "detector": run.get("detector"),
        "input": run.get("input"),
        "post": asdict(stored_postprocessing(run)),
        "calibration": run.get("calibration"),
        "protocol": protocol,
        "only": only,
    }
    result = head | score_found(**found, threshold=threshold, protocol=protocol)
    return result | {"errors": errors, "without_map": sorted(set(truths) - set(ids))}
