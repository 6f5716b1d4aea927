"""Scores of a folder of results against the truth: in pixels, in millimetres and in lesions."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from mmccd import scoring, summary
from mmccd.cases.brain import check_lesion
from mmccd.cases.case import Case
from mmccd.cases.filenames import nfc
from mmccd.cases.grid import check_same_grid, protocol_slices, volume_ml, voxel_size
from mmccd.cases.names import find_cases, possible_lesions
from mmccd.cases.nifti import read_volume
from mmccd.cases.records import is_url, user_place
from mmccd.detection.bucket import fetched_map
from mmccd.detection.calibration import stored_postprocessing
from mmccd.detection.provenance import (
    calibration_notes,
    check_origin,
    find_run,
    input_of_record,
    note_lines,
    odd_things,
    scored_ids,
)
from mmccd.detection.records import State, read_state
from mmccd.errors import display_name, file_error, format_error
from mmccd.files import user_path

ALARMS = ("fpr", "volume_ml", "cm2_a_slice", "false_a_slice")  # amounts of false alarm, see `false_alarm`


@dataclass(frozen=True)
class LesionScore:
    """What counts in a case with a lesion, under one of the protocols.

    Attributes:
        pixels: name of the case, map values and truth of the pixels that count, flat.
        shapes: distances and lesions of the segmentation, as `mmccd.summary.score_shapes` gives them; of a map without
            a threshold the size of the lesion only.
        floor: the same where everything is marked.
    """

    pixels: tuple[str, np.ndarray, np.ndarray]
    shapes: dict[str, Any]
    floor: dict[str, Any]


def read_result(
    id: str, out: str | Path, path: str | Path | None, modality: str | None = None
) -> tuple[np.ndarray, Case]:
    """Return the map (x, y, z) in LPS of one case, and the `Case` with its truth, which lie on one grid.

    Args:
        id: name of the case.
        out: folder of the results.
        path: folder of the truth; None if there is none, which is refused.
        modality: what the detector was given, several joined by +, whose brain counts; None takes that of all.

    Raises:
        ValueError: if a file is missing or cannot be read, there is no segmentation, or the grids differ.
    """
    out = user_path(out)
    file = out / id / f"{id}_anomaly.nii.gz"
    if path is None:
        raise ValueError(f"Cannot score {id}: there is no case of this name among the truth; check the folder.")
    case = Case.load(path, modality.split("+") if modality else None)
    if case.lesion is None:
        todo = f"add the file {id}_seg.nii.gz (all 0 if healthy)"
        if unsure := possible_lesions(path):
            todo = f"if {display_name(unsure[0].name)} shows its lesion, call that {id}_seg.nii.gz and keep no other"
        raise ValueError(f"Cannot score {id}: {path} has no segmentation; {todo}.")
    anomaly, grid = read_volume(file)
    check_same_grid(grid, file, case.grid, path)
    return anomaly, case


@contextmanager
def local_map(out: str | Path, id: str) -> Iterator[Path]:
    """Give a folder of results on this computer with the map of a case: `out`, or what is fetched of a bucket."""
    if not is_url(out):
        yield Path(out)
        return
    with fetched_map(str(out), id) as folder:
        yield folder


def lesion_of(case: Case) -> np.ndarray:
    """Return where the lesion of a case is, bool (x, y, z), of which the truth must be known."""
    if case.lesion is None:
        raise ValueError(f"Cannot score {case.id}: it has no segmentation.")
    return case.lesion


def score_lesion(id: str, anomaly: np.ndarray, case: Case, protocol: str, threshold: float | None) -> LesionScore:
    """Return the pixels and shapes that count in a case with a lesion.

    Args:
        id: name of the case.
        anomaly: its map (x, y, z).
        case: with the truth.
        protocol: "slice", the axial slice with most lesion; or "volume".
        threshold: calibrated, or None.

    Raises:
        ValueError: if no lesion lies where the protocol scores.
    """
    if protocol == "volume":
        score, truth = scoring.volume_protocol(anomaly, lesion_of(case), case.brain)
    else:
        places = protocol_slices(anomaly.shape, case.affine)
        score, truth = scoring.slice_protocol(anomaly, lesion_of(case), case.brain, places)
    if not truth.any():
        todo = "check its brain mask" if protocol == "volume" else "use the volume protocol"
        raise ValueError(
            f"Cannot score {id}: it has no lesion in the slices and the brain that the {protocol} protocol scores; "
            f"{todo}."
        )
    return LesionScore((id, score, truth), *case_shapes(anomaly, case, protocol, threshold))


def case_shapes(
    anomaly: np.ndarray, case: Case, protocol: str, threshold: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return distances in mm, lesions found and false ones, for the segmentation and where everything is marked.

    Args:
        anomaly: the map (x, y, z).
        case: with the truth.
        protocol: "slice" or "volume".
        threshold: calibrated; without one (None) the first holds the size of the lesion only.
    """
    at: tuple[Any, ...] = (...,)
    lesion = lesion_of(case)
    if protocol == "slice":
        places = protocol_slices(anomaly.shape, case.affine)
        at = (..., scoring.worst_slice(lesion, case.brain, places))
    truth, brain = lesion[at], case.brain[at]
    spacing = voxel_size(case.affine)[: truth.ndim]
    floor = summary.score_shapes(brain, truth, brain, spacing)
    if threshold is None:
        return {"size": floor["size"]}, floor
    return summary.score_shapes(anomaly[at] > threshold, truth, brain, spacing), floor


def false_alarm(id: str, anomaly: np.ndarray, case: Case, threshold: float | None) -> dict[str, Any]:
    """Return how much of a healthy brain is called abnormal, in the whole volume whatever the protocol.

    Args:
        id: of a case without lesion.
        anomaly: its map (x, y, z).
        case: with its brain.
        threshold: calibrated, or None.

    Returns:
        `id`; `fpr`, the share of the brain; `volume_ml`; and per axial slice `cm2_a_slice` and `false_a_slice`, the
        pieces counted slice by slice. All amounts are None without a threshold.
    """
    if threshold is None:
        return {"id": id, **dict.fromkeys(ALARMS)}
    wrong = (anomaly > threshold) & case.brain
    area = summary.false_area(wrong, case.brain, voxel_size(case.affine))
    return {
        "id": id,
        "fpr": area["share"],
        "volume_ml": round(volume_ml(wrong, case.affine), 3),
        "cm2_a_slice": round(area["cm2"], 4),
        "false_a_slice": area["false_a_slice"],
    }


def result_ids(out: str | Path, state: State, only: str = "*") -> list[str]:
    """Return the names of the cases to score.

    Args:
        out: folder of results.
        state: what it holds.
        only: pattern of the names that are wanted.

    Raises:
        ValueError: if there are none.
    """
    if not (state.names if is_url(out) else Path(out).is_dir()):
        raise ValueError(f"Cannot read {out}: there is no such folder; check the path.")
    ids = scored_ids(out, state)
    if not ids:
        raise ValueError(f"Cannot score {out}: it holds no anomaly maps; run detect first.")
    wanted = [id for id in ids if fnmatchcase(nfc(id), nfc(only))]
    if not wanted:
        raise ValueError(
            f"Cannot score {out}: the pattern {only!r} fits none of its cases, such as {ids[0]}; "
            "put a * for any letters."
        )
    return wanted


def pair_cases(
    out: str | Path, truth: str | Path | Sequence[str | Path], state: State, only: str = "*"
) -> tuple[list[str], dict[str, Path]]:
    """Return the names of the cases to score, and the paths of the truth by name.

    Args:
        out: folder of results.
        truth: case folders, or a folder of them.
        state: what the folder of results holds.
        only: pattern of the names that are wanted, in the results and in the truth.

    Raises:
        ValueError: if no case is in both, or a folder does not exist.
    """
    ids = result_ids(out, state, only)
    for path in [truth] if isinstance(truth, (str, Path)) else truth:
        if not user_path(path).exists():
            raise file_error(path, "there is no such folder", "check the path of the truth")
    written = {nfc(id): id for id in ids}  # as the folders of results spell them
    truths = {written.get(id, id): path for id, path in find_cases(truth) if fnmatchcase(id, nfc(only))}
    if not set(ids) & set(truths):
        raise ValueError(
            f"Cannot score {out}: none of its cases (such as {ids[0]}) is in the truth "
            f"(such as {next(iter(truths), 'nothing')}); check both folders."
        )
    return ids, truths


def summarise_scores(
    lesions: Sequence[LesionScore], healthy: Sequence[dict[str, Any]], threshold: float | None, protocol: str
) -> dict[str, Any]:
    """Return the means over cases.

    Args:
        lesions: of cases with a lesion.
        healthy: of cases without one, from `false_alarm`.
        threshold: calibrated, or None.
        protocol: "slice" or "volume".

    Returns:
        `scores` of the detector and of `floor`, where everything is marked (None if there is no lesion); `by_size`,
        Dice by the size of the lesion; `healthy` and, over them, `healthy_summary`.
    """
    subjects = [s.pixels for s in lesions]
    scores = floor = None
    if subjects:
        scores = summary.score_subjects(subjects, threshold, protocol, shapes=[s.shapes for s in lesions])
        marked = summary.everything_positive(subjects)
        origin = "none: everything is marked"
        floor = summary.score_subjects(marked, 0.0, protocol, shapes=[s.floor for s in lesions], origin=origin)
    rows = scores["subjects"] if scores else []
    return {
        "scores": scores,
        "floor": floor,
        "by_size": summary.by_size(rows, "dice", [r["size"] for r in rows], summary.SIZES[protocol]),
        "healthy": list(healthy),
        "healthy_summary": {k: summary.summarise(healthy, k) for k in ALARMS},
    }


def evaluate(
    out: str | Path,
    truth: str | Path | Sequence[str | Path],
    protocol: str = "slice",
    stop: bool = False,
    only: str = "*",
) -> dict[str, Any]:
    """Return the scores of a folder of results, ready for JSON.

    The files are scored, whoever wrote them and when, so the maps of another tool are welcome too, at
    `OUT/ID/ID_anomaly.nii.gz`. Each is compared with the record of what it was made from. A case that cannot be scored
    is named with the reason, and the others are scored.

    Args:
        out: folder of results, as `detect_many` leaves it, or its URL.
        truth: case folders, or a folder of them, with segmentations.
        protocol: "slice", the axial slice with most lesion among 70 to 89 of the BraTS grid (on another grid among
            all), or "volume". False alarms of healthy cases are counted in the whole volume either way.
        stop: raise the first error instead of noting it.
        only: pattern of the names of the cases that count, such as `*glioma*`.

    Returns:
        What made the maps (`mmccd`, `detector`, `input`, `post`, `calibration`), `protocol`, `only`, what
        `summarise_scores` gives, `errors` (`id` and `error` each), `notes` (sentences about maps that were scored but
        may not be what they seem) and `without_map`: cases of the truth in no mean.

    Raises:
        ValueError: if the protocol is unknown, or there is nothing to score.
    """
    if protocol not in ("slice", "volume"):
        raise ValueError(f"unknown protocol {protocol!r}: choose slice or volume")
    out = user_place(out)
    state = read_state(out)
    ids, truths = pair_cases(out, truth, state, only)
    run = find_run(out, state)
    threshold = (run.get("calibration") or {}).get("threshold")
    lesions: list[LesionScore] = []
    healthy: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    odd: dict[str, list[str]] = {}
    doubts: list[str] = []
    for id in ids:
        try:
            check_origin(id, state, run)
            input = input_of_record(id, state, run)
            with local_map(out, id) as folder:
                anomaly, case = read_result(id, folder, truths.get(id), input)
                strange = odd_things(id, folder, state, truths[id], input)
            if lesion_of(case).any():
                lesions.append(score_lesion(id, anomaly, case, protocol, threshold))
            else:
                healthy.append(false_alarm(id, anomaly, case, threshold))
            odd[id] = strange
            doubts += [f"{display_name(id)}: {note}" for note in check_lesion(case.lesion, case.brain)]
        except (ValueError, OSError) as error:
            if stop:
                raise
            errors.append({"id": id, "error": format_error(error, id)})
    return {
        "mmccd": run.get("mmccd"),
        "detector": run.get("detector"),
        "input": run.get("input"),
        "post": asdict(stored_postprocessing(run)),
        "calibration": run.get("calibration"),
        "protocol": protocol,
        "only": only,
        **summarise_scores(lesions, healthy, threshold, protocol),
        "errors": errors,
        "notes": note_lines(odd, state) + calibration_notes(odd, run) + doubts,
        "without_map": sorted(set(truths) - set(ids)),
    }
