"""Detection in one case and in many: what cannot be read is noted, what was done is recorded, detectors never mix."""

import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.names import choose_files, find_cases
from mmccd.detection.calibration import UNPROCESSED, stored_postprocessing
from mmccd.detection.maps import anomaly_volume
from mmccd.detection.report import Detection, result_files
from mmccd.detector import Detector, describe, fingerprint
from mmccd.errors import display_name, format_error
from mmccd.files import output_folder, read_json, write_atomic, writing
from mmccd.postprocess import PostProcess, lower_dropped

Record = dict[str, Any]  # of a case in detect.json: id, status ("done", "skipped" or "failed"), seconds and more


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
        input: modality; None is the one the detector is made for.
        seed: of the randomness, for detectors that draw.
        batch_size: slices at a time, a matter of memory only.
        post: what to do to the map, and to what the threshold makes of it.

    Returns:
        Map and segmentation, which is where the map is above the threshold; where `post` drops a small piece, the map
        is lowered to the threshold there, so that this holds.

    Raises:
        ValueError: if the detector has no threshold, the case no such modality, or nothing is left after `post`.
    """
    input = input or detector.config.input
    h = detector.threshold  # refuses here if there is none, before the work
    a, spacing = anomaly_volume(case, detector, input, seed, batch_size), voxel_size(case.affine)
    try:
        a = post.map(a, case.brain, spacing)
    except ValueError as e:
        raise ValueError(f"Cannot process the map of {case.id}: {e}.") from e
    marked = post.segment(a, h, spacing)
    if post.smallest:
        a = lower_dropped(a, marked, h)
    return Detection(case, input, type(detector).__name__, h, a, marked, post)


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


def earlier_cases(
    out: str | Path, run: Mapping[str, Any], overwrite: bool = False
) -> tuple[dict[str, Record], list[str]]:
    """Return what may stay of an earlier run in `out`, and what this one replaces.

    Args:
        out: folder of results.
        run: from `describe_run`.
        overwrite: may results of another detector, input, seed or post-processing be replaced?

    Returns:
        Records by id of the cases that the same detector has done, and the ids of those that another one has.

    Raises:
        ValueError: if there are results of another detector, and `overwrite` is not given.
    """
    before: dict[str, Any] = {"post": asdict(UNPROCESSED)} | read_json(
        Path(out) / "detect.json"
    )  # older files had no post-processing
    records = {c["id"]: c for c in before.get("cases", []) if c["status"] != "failed"}
    before_h, h = ((r.get("calibration") or {}).get("threshold") for r in (before, run))
    if before_h == h and all(before.get(k) == run[k] for k in ("fingerprint", "input", "seed", "post")):
        return records, []
    if records and not overwrite:
        post = stored_postprocessing(before)
        made = f"{before.get('weights') or before.get('detector')} on {before.get('input')}, seed {before.get('seed')}"
        made += f", after {post}" if post else ""
        raise ValueError(
            f"{display_name(out)} already holds results of another detector, threshold, input, seed or post-processing "
            f"({made}), such as {min(records)}; choose another folder, or give --overwrite."
        )
    return {}, sorted(records)


def attempt(
    id: str,
    path: str | Path,
    detector: Detector,
    out: Path,
    *,
    input: str,
    known: bool = True,
    seed: int = 0,
    post: PostProcess = UNPROCESSED,
    batch_size: int = 16,
    stop: bool = False,
) -> Record:
    """Detect in one case, write the results and return its record; an error is noted in the record.

    Args:
        id: name of the case.
        path: its folder or file.
        detector: calibrated.
        out: folder for the results, which exists.
        input: modality.
        known: did the caller say that a single file is this modality? If not, its name must.
        seed: of the randomness.
        post: what to do to the map.
        batch_size: slices at a time.
        stop: raise the error instead.
    """
    start = time.perf_counter()
    try:
        if not known and Path(path).is_file():
            choose_files(path)  # refuses a name without modality
        case = Case.load(path, [input])
        found = detect_case(case, detector, input, seed, batch_size, post)
        record = {
            "status": "done",
            "files": found.save(out),
            "threshold": found.threshold,
            "volume_ml": round(found.volume_ml, 3),
        }
        record |= {"notes": case.notes} if case.notes else {}
    except Exception as error:
        if stop:
            raise
        record = {"status": "failed", "error": format_error(error)}
    return {"id": id, **record, "seconds": round(time.perf_counter() - start, 2)}


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


def is_complete(record: Record, out: Path) -> bool:
    """Return whether the case of a record, which may be empty, was finished and its files are still in `out`."""
    return bool(record.get("files")) and all((out / f).is_file() for f in record["files"].values())


def write_run(out: Path, result: Mapping[str, Any], replaced: Collection[str] = ()) -> None:
    """Write `detect.json`, and then remove the results of another detector that this run replaces.

    Nothing is written, and nothing removed, before a case has succeeded; except where the same detector wrote a
    `detect.json` before, in which a case that fails now is no longer done.

    Args:
        out: folder of the results.
        result: what `detect.json` shall hold.
        replaced: ids of the results of another detector.
    """
    done = {c["id"] for c in result["cases"] if c["status"] != "failed"}
    if not done and (replaced or not (out / "detect.json").exists()):
        return
    with writing(out):
        write_atomic(out / "detect.json", (json.dumps(result, indent=1) + "\n").encode())
    for id in set(replaced) - done:
        if Path(id).name != id:
            continue  # a damaged file must not lead elsewhere
        for name in result_files(id).values():
            (out / id / name).unlink(missing_ok=True)
        if (out / id).is_dir() and not any((out / id).iterdir()):
            (out / id).rmdir()


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
) -> dict[str, Any]:
    """Detect in every case, write the results and return what `detect.json` holds.

    A case that cannot be read is noted and does not stop the others. `detect.json` is written anew, whole, after every
    case, so an interruption costs only the case it hit.

    Args:
        paths: case folders, folders of cases, or NIfTI files.
        detector: calibrated.
        out: folder for the results, made where missing: map, segmentation and report of a case in a folder of its name.
        input: modality; None is the one the detector is made for.
        weights: the name that the detector was loaded by, for the record.
        seed: of the randomness, for detectors that draw.
        skip_existing: leave cases alone that are complete and were made with the same detector.
        overwrite: replace all results of another detector that are in `out`.
        progress: show a bar, if on a terminal.
        post: what to do to the maps, and to what the threshold makes of them.
        batch_size: slices at a time, a matter of memory only.
        stop: raise the first error of a case instead of noting it.

    Raises:
        ValueError: if the detector has no threshold, two cases have one name, or `out` cannot be written, lies among
            the scans, or holds results of another detector.
    """
    from tqdm import tqdm

    _ = detector.threshold  # refuses here if there is none: that is no fault of a case
    check_place(cases := find_cases(paths), out)
    run = describe_run(detector, input or detector.config.input, weights, seed, post)
    records, replaced = earlier_cases(out, run, overwrite)
    options: dict[str, Any] = {"input": run["input"], "known": input is not None, "seed": seed, "post": post}
    options |= {"batch_size": batch_size, "stop": stop}
    result = run | {"cases": []}
    with output_folder(out) as out:
        for id, path in tqdm(cases, desc="detect", unit="case", disable=None if progress else True):
            if skip_existing and is_complete(records.get(id, {}), out):
                records[id]["status"] = "skipped"
            else:
                records[id] = attempt(id, path, detector, out, **options)
            result = run | {"cases": [records[i] for i in sorted(records)]}
            write_run(out, result, replaced)
    return result
