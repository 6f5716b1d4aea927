""""""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.names import choose_files, find_cases
from mmccd.detection.calibration import stored_postprocessing
from mmccd.detection.maps import anomaly_volume
from mmccd.detection.report import Detection, result_files
from mmccd.detector import Detector, describe, fingerprint
from mmccd.errors import display_name, format_error
from mmccd.files import output_folder, read_json, write_atomic, writing
from mmccd.postprocess import PostProcess, lower_dropped


def detect_case(
    case: Case,  # with the modality `input`
    detector: Detector,  # calibrated
    input: str | None = None,  # modality to look at; None: the one the detector is made for
    seed: int = 0,  # of the randomness, for detectors that draw
    batch_size: int = 16,  # slices at a time
    post=PostProcess(),  # what to do to the map, and to what the threshold makes of it
) -> Detection:
    "Find what is unusual in one case."
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
    detector: Detector,  # calibrated
    input: str,  # modality
    weights="",  # the name the detector was asked for by
    seed: int = 0,  # of the randomness
    post=PostProcess(),  # what is done to the maps
) -> dict:  # ready for JSON
    "What makes the results of a run what they are."
    import mmccd

    return {
        "mmccd": mmccd.__version__,
        "weights": str(weights),
        **describe(detector),
        "fingerprint": fingerprint(detector),
        "input": input,
        "seed": seed,
        "post": asdict(post),
    }


def earlier_cases(
    out,  # folder of results
    run: dict,  # from `describe_run`
    overwrite: bool = False,  # may results of another detector be replaced?
) -> tuple:  # (records by id that may stay: those of the same detector; ids of the others, to be replaced)
    "What an earlier run left in `out`; refuses to mix two detectors."
    before = {"post": asdict(PostProcess())} | read_json(Path(out) / "detect.json")
    records = {c["id"]: c for c in before.get("cases", []) if c["status"] != "failed"}
    if all(before.get(k) == run[k] for k in ("fingerprint", "input", "seed", "post")):
        return records, []
    if records and not overwrite:
        made = f"{before.get('weights') or before.get('detector')} on {before.get('input')}, seed {before.get('seed')}{', after ' * bool(post := stored_postprocessing(before))}{post or ''}"
        raise ValueError(
            f"{display_name(out)} already holds results of another detector, threshold, input, seed or post-processing ({made}), such as {min(records)}; "
            "choose another folder, or give --overwrite."
        )
    return {}, sorted(records)


def attempt(
    id: str,  # of the case
    path,  # its folder or file
    detector: Detector,  # calibrated
    out,  # folder for the results; it exists
    stop: bool = False,  # raise instead of noting the error
    sure: bool = True,  # did the caller say which modality it is?
    **options,  # of `detect_case`
) -> dict:  # record for detect.json
    "Detect in one case; an error is noted and does not stop the others."
    start = time.perf_counter()
    try:
        if not sure and Path(path).is_file():
            choose_files(path)  # refuses a name without modality
        found = detect_case(Case.load(path, [options["input"]]), detector, **options)
        record = {
            "status": "done",
            "files": found.save(out),
            "threshold": found.threshold,
            "volume_ml": round(found.volume_ml, 3),
        }
    except Exception as error:
        if stop:
            raise
        record = {"status": "failed", "error": format_error(error)}
    return {"id": id, **record, "seconds": round(time.perf_counter() - start, 2)}


def check_place(
    cases,  # (id, path) pairs
    out,  # folder for the results
):
    "Refuse to write among the scans of a case."

    def same(a, b):
        return os.path.realpath(a) == os.path.realpath(b)

    for id, path in cases:
        home = Path(path) if Path(path).is_dir() else Path(path).parent
        if same(home, Path(out) / id) or (home == Path(path) and same(home, out)):
            raise ValueError(
                f"Cannot write into {out}: the results would lie among the scans of {home}; choose another folder."
            )


def is_complete(
    record: dict,  # of one case; may be empty
    out,  # folder of the results
) -> bool:
    "Was this case finished, and are its files still there?"
    return bool(record.get("files")) and all((Path(out) / f).is_file() for f in record["files"].values())


def write_run(
    out,  # folder of the results
    result: dict,  # what detect.json shall hold
    replaced=(),  # ids of results of another detector
):
    "Write `detect.json`, once a case succeeded or where the same detector wrote one before; remove what is replaced."
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
    paths,  # case folders, folders of cases, NIfTI files
    detector: Detector,  # calibrated
    out,  # folder for the results; made where missing
    input: str | None = None,  # modality to look at; None: the one the detector is made for
    weights="",  # the name the detector was asked for by, for the record
    seed: int = 0,  # of the randomness, for detectors that draw
    skip_existing: bool = False,  # leave cases alone that are complete and were made with the same detector
    overwrite: bool = False,  # replace all results of another detector that are in `out`
    progress: bool = False,  # a bar, if on a terminal
    post=PostProcess(),  # what to do to the maps, and to what the threshold makes of them
    **options,  # `batch_size`, `stop`
) -> dict:  # what detect.json holds
    "Detect in every case; what cannot be read is noted and does not stop the others."
    from tqdm import tqdm

    detector.threshold  # refuses here if there is none: that is no fault of a case
    check_place(cases := find_cases(paths), out)
    records, replaced = earlier_cases(
        out, run := describe_run(detector, input or detector.config.input, weights, seed, post), overwrite
    )
    options |= dict(input=run["input"], seed=seed, post=post, sure=input is not None)
    with output_folder(out) as out:
        for id, path in tqdm(cases, desc="detect", unit="case", disable=None if progress else True):
            if skip_existing and is_complete(records.get(id, {}), out):
                records[id]["status"] = "skipped"
            else:
                records[id] = attempt(id, path, detector, out, **options)
            write_run(out, result := run | {"cases": [records[i] for i in sorted(records)]}, replaced)
    return result
