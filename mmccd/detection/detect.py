"""Detection in one case and in many: what cannot be read is noted, what was done is recorded, detectors never mix."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.names import find_cases
from mmccd.cases.oddities import oddities
from mmccd.detection.calibration import UNPROCESSED
from mmccd.detection.inputs import choose_input, input_of
from mmccd.detection.maps import anomaly_volume, member_maps
from mmccd.detection.records import CaseEntry, OtherResultsError, ResultFolder, ResultInTheWayError, read_sources
from mmccd.detection.report import Detection
from mmccd.detector import Detector, describe, fingerprint
from mmccd.ensemble import Ensemble, evidence_shares
from mmccd.errors import file_error, format_error
from mmccd.files import output_folder, remove_leftovers, user_path
from mmccd.postprocess import PostProcess, lower_dropped
from mmccd.progress import track
from mmccd.slices import to_slices, to_volume


def detect_case(
    case: Case,
    detector: Detector,
    input: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
    post: PostProcess = UNPROCESSED,
) -> Detection:
    """Return what a detector finds in one case.

    Args:
        case: with the modality `input`.
        detector: calibrated.
        input: modality; None is the one the detector is made for, of an ensemble the best choice for the case.
        seed: of the randomness, for detectors that draw.
        batch_size: slices at a time, a matter of memory only.
        post: what to do to the map, and to what the threshold makes of it.

    Returns:
        Map and segmentation, which is where the map is above the threshold; where `post` drops a small piece, the map
        is lowered to the threshold there, so that this holds.

    Raises:
        ValueError: if the detector has no threshold, the case no such modality, or nothing is left after `post`.
    """
    input = choose_input(detector, case.volumes, input)
    h = detector.threshold  # refuses here if there is none, before the work
    brain, spacing, maps = to_slices(case.brain), voxel_size(case.affine), {}
    if isinstance(detector, Ensemble):
        maps = member_maps(case, detector, input, seed, batch_size)
        a = to_volume(detector.combine(maps, brain, input))
    else:
        a = anomaly_volume(case, detector, input, seed, batch_size)
    try:
        a = post.map(a, case.brain, spacing)
    except ValueError as e:
        raise ValueError(f"Cannot process the map of {case.id}: {e}.") from e
    marked = post.segment(a, h, spacing)
    if post.smallest:
        a = lower_dropped(a, marked, h)
    shares = evidence_shares(detector, maps, brain, to_slices(marked)) if isinstance(detector, Ensemble) else {}
    return Detection(case, input, type(detector).__name__, h, a, marked, post, shares)


def describe_run(
    detector: Detector, input: str, weights: str | Path = "", seed: int = 0, post: PostProcess = UNPROCESSED
) -> dict[str, Any]:
    """Return what makes the results of a run what they are, ready for JSON.

    Args:
        detector: calibrated.
        input: modality.
        weights: the name that the detector was loaded by.
        seed: of the randomness.
        post: what is done to the maps.
    """
    import mmccd

    return {
        "mmccd": mmccd.__version__,
        "weights": str(weights),
        **describe(detector),
        "detector": type(detector).__name__,
        "fingerprint": fingerprint(detector),
        "input": input,
        "seed": seed,
        "post": asdict(post),
    }


def attempt(
    id: str,
    path: str | Path,
    detector: Detector,
    results: ResultFolder,
    *,
    known: bool = True,
    post: PostProcess = UNPROCESSED,
    batch_size: int = 16,
    skip: bool = False,
    stop: bool = False,
) -> CaseEntry:
    """Detect in one case, write the results and return its entry; an error is noted in the entry.

    Args:
        id: name of the case.
        path: its folder or file.
        detector: calibrated.
        results: folder for the results.
        known: did the caller say that a single file is this modality? If not, its name must.
        post: what to do to the map.
        batch_size: slices at a time.
        skip: keep a result that is complete and was made of the same files in the same way.
        stop: raise the error instead.

    Raises:
        OtherResultsError: if another run has begun to write into the folder.
    """
    start = time.perf_counter()
    seed = results.run["seed"]
    try:
        input = input_of(path, detector, results.run["input"], known)
        sources = read_sources(path, input)
        kept, notes = results.check(id, sources, skip)
        if kept:
            return {**results.state.records[id]["case"], "status": "skipped"}
        case = Case.load(path, input.split("+"))
        case.notes += oddities(case)
        found = detect_case(case, detector, input, seed, batch_size, post)
        if read_sources(path, input) != sources:
            raise file_error(path, "it changed while it was read", "run again")
        about = {"threshold": found.threshold, "volume_ml": round(found.volume_ml, 3)}
        if isinstance(detector, Ensemble):
            about |= {"input": input, "evidence": {m: round(v, 3) for m, v in found.shares.items()}}
        about |= {"notes": notes + case.notes} if notes or case.notes else {}
        return results.publish(found, sources, about | {"seconds": round(time.perf_counter() - start, 2)})
    except OtherResultsError:
        raise
    except Exception as error:
        if stop:
            raise
        seconds = round(time.perf_counter() - start, 2)
        entry: Any = {"id": id, "status": "failed", "error": format_error(error, id), "seconds": seconds}
        if not isinstance(error, ResultInTheWayError):  # which leaves what is there as it is
            results.fail(id, entry)
        return entry


def check_place(cases: Sequence[tuple[str, str | Path]], out: str | Path) -> None:
    """Refuse to write results among the scans of a case.

    Args:
        cases: name and path of each.
        out: folder for the results.
    """

    def same(a: str | Path, b: str | Path) -> bool:
        return os.path.realpath(a) == os.path.realpath(b)

    for id, path in cases:
        home = Path(path) if Path(path).is_dir() else Path(path).parent
        if same(home, Path(out) / id) or (home == Path(path) and same(home, out)):
            raise ValueError(
                f"Cannot write into {out}: the results would lie among the scans of {home}; choose another folder."
            )


def detect_many(
    paths: str | Path | Sequence[str | Path],
    detector: Detector,
    out: str | Path,
    input: str | None = None,
    weights: str | Path = "",
    seed: int = 0,
    skip_existing: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    post: PostProcess = UNPROCESSED,
    batch_size: int = 16,
    stop: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Detect in every case, write the results and return what `detect.json` holds, and which cases were skipped.

    A case that cannot be read is noted and does not stop the others. A case's folder takes its place as one, with a
    record of what it was made from, so an interruption costs only the case it hit, and several processes may write
    into one folder, if they do the same to different cases.

    Args:
        paths: case folders, folders of cases, or NIfTI files.
        detector: calibrated.
        out: folder for the results, made where missing: map, segmentation and report of a case in a folder of its name.
        input: modality; None is the one the detector is made for, of an ensemble all that it can use.
        weights: the name that the detector was loaded by, for the record.
        seed: of the randomness, for detectors that draw.
        skip_existing: leave cases alone that are complete and were made of the same files with the same detector.
        overwrite: replace all results of another detector that are in `out`, and those of another scan that has the
            name of a case.
        progress: show a bar, if on a terminal.
        post: what to do to the maps, and to what the threshold makes of them.
        batch_size: slices at a time, a matter of memory only.
        stop: raise the first error of a case instead of noting it.
        command: the command line, for the record.

    Raises:
        ValueError: if the detector has no threshold, two cases have one name, or `out` cannot be written, lies among
            the scans, or holds or meanwhile gets results of another detector.
    """
    _ = detector.threshold  # refuses here if there is none: that is no fault of a case
    out, left_out = user_path(out), []
    check_place(cases := find_cases(paths, left_out), out)
    run = describe_run(detector, input or detector.config.input, weights, seed, post)
    options: dict[str, Any] = {"known": input is not None, "post": post, "batch_size": batch_size, "stop": stop}
    with output_folder(out) as out:
        remove_leftovers(out)
        results = ResultFolder(out, run, overwrite, command)
        mine = [
            attempt(id, path, detector, results, skip=skip_existing, **options)
            for id, path in track(cases, "detect", "case", show=progress)
        ]
        if any(c["status"] == "skipped" for c in mine):
            results.settle()
        entries = {c["id"]: c for c in [*results.cases(), *mine]}
    notes = {"notes": left_out} if left_out else {}
    return run | notes | {"cases": [entries[id] for id in sorted(entries)]}
