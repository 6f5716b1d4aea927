"""Detection in one case and in many: what cannot be read is noted, what was done is recorded, detectors never mix."""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mmccd.cases.case import Case
from mmccd.cases.grid import voxel_size
from mmccd.cases.names import find_cases
from mmccd.cases.oddities import oddities
from mmccd.cases.records import in_memory, is_url, user_place
from mmccd.cluster import KilledError, open_workers
from mmccd.detection.calibration import UNPROCESSED
from mmccd.detection.inputs import choose_input, input_of
from mmccd.detection.maps import anomaly_volume, member_maps
from mmccd.detection.records import CaseEntry, OtherResultsError, ResultInTheWayError, read_sources
from mmccd.detection.report import Detection
from mmccd.detection.results import ResultFolder, open_results
from mmccd.detector import Detector, describe, fingerprint, load_detector
from mmccd.ensemble import Ensemble, evidence_shares
from mmccd.errors import file_error, format_error
from mmccd.postprocess import PostProcess, lower_dropped
from mmccd.progress import track
from mmccd.runtime import pick_device
from mmccd.slices import to_slices, to_volume
from mmccd.weights.hub import absolute_name, find_weights, packaged


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

    if is_url(out):
        return
    for id, path in cases:
        home = Path(path) if Path(path).is_dir() else Path(path).parent
        if same(home, Path(out) / id) or (home == Path(path) and same(home, out)):
            raise ValueError(
                f"Cannot write into {out}: the results would lie among the scans of {home}; choose another folder."
            )


def kept_entry(
    id: str, path: str | Path, detector: Detector, results: ResultFolder, known: bool = True
) -> CaseEntry | None:
    """Return the entry of a case whose result is complete and is kept; None: it has to be attempted.

    Args:
        id: name of the case.
        path: its folder or file.
        detector: calibrated.
        results: folder for the results.
        known: as for `attempt`.
    """
    with suppress(ValueError, OSError):  # `attempt` says what is wrong
        if id in results.state.records:
            sources = read_sources(path, input_of(path, detector, results.run["input"], known))
            if results.check(id, sources, skip=True)[0]:
                return {**results.state.records[id]["case"], "status": "skipped"}
    return None


@dataclass(frozen=True)
class CaseWorker:
    """What a worker needs to detect in a case. It is sent to each worker once, which keeps what a call returns.

    Attributes:
        detector: by what loads it where that gives the same one, else itself.
        fingerprint: of the detector.
        device: where its networks run on the worker: auto, cpu, cuda or mps.
        results: the folder, as it was at the beginning.
        options: more arguments of `attempt`.
    """

    detector: Detector | str
    fingerprint: str
    device: str
    results: ResultFolder
    options: dict[str, Any]

    @classmethod
    def of(cls, detector: Detector, weights: str | Path, device: str, results: ResultFolder, options: Any) -> Self:
        """Return what is sent for a detector that was loaded by the name `weights`; `device` "" is where it is here."""
        sent = what_loads(detector, weights) or (
            detector if detector.device.type == "cpu" else deepcopy(detector).cpu()
        )
        return cls(sent, results.run["fingerprint"], device or detector.device.type, results, options)

    def __call__(self) -> tuple[Detector, ResultFolder, dict[str, Any]]:
        """Return what the cases of a worker share.

        Raises:
            ValueError: if the worker finds another detector than this under its name.
        """
        detector = load_detector(self.detector) if isinstance(self.detector, str) else self.detector
        if isinstance(self.detector, str) and fingerprint(detector) != self.fingerprint:
            raise ValueError(f"The workers find another detector than this process under {self.detector}.")
        return detector.to(pick_device(self.device)), self.results, self.options


def what_loads(detector: Detector, weights: str | Path) -> str | None:
    """Return the name or folder by which any process of this computer gets the same detector; None: by none."""
    name = absolute_name(str(weights)) or (str(weights) if str(weights) in packaged() else None)
    if name is None or {"batch_size"} & vars(detector).keys():
        return None
    with suppress(ValueError):
        stored = load_detector(name)
        if describe(stored) == describe(detector) and fingerprint(stored) == fingerprint(detector):
            return name
    return None


def attempt_on_worker(
    detector: Detector, results: ResultFolder, options: dict[str, Any], id: str, path: str
) -> tuple[CaseEntry, bool]:
    """Attempt a case on a worker; return its entry, and whether the worker has noted that it failed."""
    entry = attempt(id, path, detector, results, **options)
    return entry, id in results.failed


def detect_on_workers(
    cases: Sequence[tuple[str, str | Path]], setup: CaseWorker, jobs: int, scheduler: str
) -> Generator[CaseEntry]:
    """Let workers attempt the cases, and yield their entries in any order; those that failed are noted in the folder.

    Raises:
        OtherResultsError: if another run has begun to write into the folder.
        ValueError: if the workers cannot be used.
    """
    results, todo = setup.results, [(id, str(path)) for id, path in cases]
    if scheduler:
        todo = [(id, os.path.abspath(path)) for id, path in todo]
    named = setup.detector if isinstance(setup.detector, str) else ""
    weights = [str(find_weights(named).folder)] if absolute_name(named) else []
    paths = [*([] if is_url(results.out) else [results.out]), *weights, *(path for _, path in todo)]
    with open_workers(min(jobs, len(todo)), scheduler, setup, paths) as workers:
        for id, done in workers.results((id, attempt_on_worker, id, path) for id, path in todo):
            try:
                entry, noted = done.result()
            except KilledError as error:
                if setup.options["stop"]:
                    raise
                entry: CaseEntry = {"id": id, "status": "failed", "error": str(error)}
                noted = False
                results.fail(id, entry)
            if noted:
                results.failed[id] = entry
            yield entry


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
    jobs: int = 1,
    scheduler: str = "",
    device: str = "",
) -> dict[str, Any]:
    """Detect in every case, write the results and return what `detect.json` holds, and which cases were skipped.

    A case that cannot be read is noted and does not stop the others. A case's folder takes its place as one, with a
    record of what it was made from, so an interruption costs only the case it hit, and several processes may write
    into one folder, if they do the same to different cases.

    Args:
        paths: case folders, folders of cases, or NIfTI files.
        detector: calibrated.
        out: folder for the results, made where missing, or an fsspec URL such as s3://bucket/results: map, segmentation
            and report of a case in a folder of its name.
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
        jobs: processes, a case each, with one thread each; the results are those of one process that has one thread.
            Unless it is 1, a script must call this under `if __name__ == "__main__":`, and Dask distributed is needed
            (`pip install 'mmccd[cluster]'`). A case whose worker is killed is given to another one, at most three
            times. Where there is one case left, this process does it.
        scheduler: address (`tcp://host:8786`) or file of a Dask scheduler whose workers do it instead, perhaps on other
            nodes. All of them have to see cases, results and weights under the same absolute path, on a drive that they
            share, and have this version of mmccd and one thread (`dask worker ADDRESS --nthreads 1`).
        device: where networks run on workers: auto, cpu, cuda or mps; "" is where the detector is here.

    Raises:
        ValueError: if the detector has no threshold, two cases have one name, or `out` cannot be written, lies among
            the scans, or holds or meanwhile gets results of another detector.
    """
    _ = detector.threshold  # refuses here if there is none: that is no fault of a case
    out, left_out = user_place(out), []
    check_place(cases := find_cases(paths, left_out), out)
    run = describe_run(detector, input or detector.config.input, weights, seed, post)
    options: dict[str, Any] = {"known": input is not None, "post": post, "batch_size": batch_size, "stop": stop}
    with open_results(
        os.path.abspath(out) if scheduler and not is_url(out) else out, run, overwrite, command
    ) as results:
        alone = in_memory(out) or (not scheduler and min(jobs, len(cases)) <= 1)
        mine, todo = [], list(cases)
        if skip_existing and not alone:
            kept = {id: kept_entry(id, path, detector, results, options["known"]) for id, path in cases}
            mine, todo = [c for c in kept.values() if c], [c for c in cases if not kept[c[0]]]
        options["skip"] = skip_existing
        if alone or len(todo) <= (not scheduler):
            done = (attempt(id, path, detector, results, **options) for id, path in todo)
        else:
            setup = CaseWorker.of(detector, weights, device, results, options)
            done = detect_on_workers(todo, setup, jobs, scheduler)
        with closing(done):
            mine += track(done, "detect", "case", total=len(cases), first=len(mine), show=progress)
        if not alone or is_url(out) or any(c["status"] == "skipped" for c in mine):
            results.settle()
        entries = {c["id"]: c for c in [*results.cases(), *mine]}
    notes = {"notes": left_out} if left_out else {}
    return run | notes | {"cases": [entries[id] for id in sorted(entries)]}
