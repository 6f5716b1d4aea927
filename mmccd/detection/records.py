"""What a folder of results knows of itself: a record in each case's folder, and `detect.json`, which is made of them.

A case's folder takes its place as one, with its record in it, so a record never speaks of other maps, however many
processes write into the folder of results and whenever one of them is killed. `detect.json` is only a view of the
records, and is written anew from them after every case.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from mmccd.cases.filenames import NIFTI
from mmccd.cases.names import choose_files
from mmccd.detection.calibration import UNPROCESSED, stored_postprocessing
from mmccd.detection.report import Detection, record_name, result_files
from mmccd.errors import display_name
from mmccd.files import (
    PATIENCE,
    FolderBusyError,
    folder_lock,
    hash_file,
    hash_or_nothing,
    swap_in,
    working_folder,
    write_atomic,
    writing,
)
from mmccd.schemas import read_checked

RUN = "detect.json"


class Source(TypedDict):
    """A file that a case was read from: its path, and the SHA-256 of its bytes."""

    path: str
    sha256: str


class CaseEntry(TypedDict):
    """A case as `detect.json` lists it; more is kept, as seconds, threshold, volume_ml and notes."""

    id: str
    status: Literal["done", "skipped", "failed"]
    files: NotRequired[dict[str, str]]
    error: NotRequired[str]
    input: NotRequired[str]


class Calibration(TypedDict):
    """What is needed of a calibration."""

    threshold: NotRequired[float | None]


class RunRecord(TypedDict):
    """What makes the results of a run what they are, as `describe_run` gives it, and in `detect.json` its cases."""

    fingerprint: NotRequired[str]
    detector: NotRequired[str | None]
    weights: NotRequired[str]
    input: NotRequired[str | None]
    seed: NotRequired[int]
    calibration: NotRequired[Calibration | None]
    cases: NotRequired[list[CaseEntry]]


class CaseRecord(RunRecord):
    """The record in a case's folder."""

    case: CaseEntry
    inputs: dict[str, Source]  # by modality, and "seg"
    sha256: dict[str, str]  # of the files, by kind


class ResultInTheWayError(ValueError):
    """A case's place is taken by what must not be lost; it stays as it is."""


class OtherResultsError(ValueError):
    """The folder holds, or has just got, results of another run."""


def same_run(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Return whether two runs make the same maps and segmentations of the same scan."""
    no_post = {"post": asdict(UNPROCESSED)}  # older files had none
    first, second = (no_post | dict(r) for r in (a, b))
    thresholds = [(r.get("calibration") or {}).get("threshold") for r in (a, b)]
    return thresholds[0] == thresholds[1] and all(
        first.get(k) == second.get(k) for k in ("fingerprint", "input", "seed", "post")
    )


def made_by(run: Mapping[str, Any]) -> str:
    """Return what made the maps of a run, in words: `threshold-flair on flair, seed 0`."""
    post = stored_postprocessing(run)
    words = f"{run.get('weights') or run.get('detector')} on {run.get('input')}, seed {run.get('seed')}"
    return display_name(words + (f", after {post}" if post else ""))


def is_name(id: str) -> bool:
    """Return whether an id leads to a folder inside the results, and nowhere else."""
    return id not in ("", ".", "..") and "\0" not in id and Path(id).name == id


def read_sources(path: str | Path, input: str) -> dict[str, Source]:
    """Return the files that a case is read from, by modality and "seg".

    Args:
        path: the case's folder or file.
        input: modality, or several joined by +.

    Returns:
        Path and hash of each. A file that cannot be read has no hash; whoever reads the case says why.

    Raises:
        ValueError: as `choose_files`.
    """
    files, seg = choose_files(path, input.split("+"))
    paths = {**files, "seg": seg}
    return {role: {"path": os.path.realpath(p), "sha256": hash_or_nothing(p)} for role, p in paths.items() if p}


def same_place(a: str, b: str) -> bool:
    """Return whether two paths are of one scan, or of one that was only packed or unpacked."""
    return NIFTI.sub("", a) == NIFTI.sub("", b)


def contents(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the hash of each file, by its role, wherever it lies."""
    return {role: source["sha256"] for role, source in sources.items()}


@dataclass(frozen=True)
class State:
    """What a folder of results holds.

    Attributes:
        run: what `detect.json` holds; empty where there is none.
        records: the records in the folders of cases, by id.
        damaged: what is wrong with a record that cannot be read, by id.
        stamps: of each record, by id; one that is written anew gets another.
    """

    run: RunRecord
    records: dict[str, CaseRecord]
    damaged: dict[str, str]
    stamps: dict[str, tuple[int, int]]

    def listed(self) -> dict[str, CaseEntry]:
        """Return the cases that `detect.json` alone knows: those of an older mmccd, and those that failed."""
        return {c["id"]: c for c in self.run.get("cases", []) if is_name(c["id"]) and c["id"] not in self.stamps}


def read_state(out: Path, before: State | None = None) -> State:
    """Read what a folder of results holds; it may be missing.

    Args:
        out: the folder.
        before: what it held a while ago: records that have not changed since are not read again.

    Raises:
        ValueError: if `detect.json` is damaged.
    """
    run: RunRecord = read_checked(out / RUN, RunRecord) if os.path.lexists(out / RUN) else {}
    records: dict[str, CaseRecord] = {}
    damaged: dict[str, str] = {}
    stamps: dict[str, tuple[int, int]] = {}
    for id in sorted(os.listdir(out)) if out.is_dir() else ():
        path = out / id / record_name(id)
        try:
            found = os.stat(path)
        except (OSError, ValueError):
            continue
        stamps[id] = found.st_ino, found.st_mtime_ns
        if before and id in before.records and before.stamps[id] == stamps[id]:
            records[id] = before.records[id]
            continue
        try:
            records[id] = read_checked(path, CaseRecord, "put back a good copy, or remove the folder and detect again")
        except ValueError as error:
            damaged[id] = str(error)
    return State(run, records, damaged, stamps)


@dataclass
class ResultFolder:
    """A folder of results that a run writes into, perhaps beside others.

    Attributes:
        out: the folder.
        run: what the run is, from `describe_run`.
        overwrite: may results of other runs, and of other scans, be replaced?
        command: the command line, for the records.
        failed: entries of cases that could not be done.
        state: what the folder held when it was last looked at.
        replaced: what it held of other runs at the beginning, by id: a record, or None where there is none.
        seen: the record of a case, if there was one, when this run came to it.
    """

    out: Path
    run: dict[str, Any]
    overwrite: bool = False
    command: str = ""
    failed: dict[str, CaseEntry] = field(default_factory=dict)
    state: State = field(init=False)
    replaced: dict[str, CaseRecord | None] = field(init=False)
    seen: dict[str, CaseRecord | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a folder with results of another run, unless they may be replaced."""
        self.state = read_state(self.out)
        self.replaced = self.others()
        if self.replaced and not self.overwrite:
            id = min(self.replaced)
            words = made_by(self.replaced[id] or self.state.run)
            raise OtherResultsError(
                f"{display_name(self.out)} already holds results of another detector, threshold, input, seed or "
                f"post-processing ({words}), such as {display_name(id)}; choose another folder, or give --overwrite."
            )

    def look(self) -> State:
        """Return what the folder holds now.

        Raises:
            OtherResultsError: if another run has begun to write into it.
        """
        self.state = read_state(self.out, self.state)
        new = [r or {} for id, r in self.others().items() if self.replaced.get(id, {}) != r]
        if new:
            raise OtherResultsError(
                f"Cannot write into {display_name(self.out)}: another process has begun to write results of another "
                f"detector, threshold, input, seed or post-processing there ({made_by(new[0])}); choose another folder."
            )
        return self.state

    def others(self) -> dict[str, CaseRecord | None]:
        """Return what the folder holds of other runs."""
        found: dict[str, CaseRecord | None] = {}
        if not same_run(self.state.run, self.run):
            found |= {id: None for id, c in self.without_record().items() if c["status"] != "failed"}
        return found | {id: r for id, r in self.state.records.items() if not same_run(r, self.run)}

    def without_record(self) -> dict[str, CaseEntry]:
        """Return the cases that `detect.json` alone knows, but not those whose map is gone."""
        listed = self.state.listed()
        return {
            id: c if c["status"] == "failed" else {**c, "status": "done"}  # "skipped", as older versions wrote
            for id, c in listed.items()
            if c["status"] == "failed" or (self.out / id / result_files(id)["anomaly"]).exists()
        }

    def check(self, id: str, sources: Mapping[str, Source], skip: bool) -> tuple[bool, list[str]]:
        """Decide about a case whose place may be taken.

        Args:
            id: name of the case.
            sources: what it would be read from.
            skip: keep a result that was made of the same files in the same way.

        Returns:
            Is the result there kept? And what should be said about one that is made again.

        Raises:
            ResultInTheWayError: if the place is taken by another scan's result, or by files that no record speaks of.
        """
        record = self.seen[id] = self.look().records.get(id)
        mine = record if record is not None and same_run(record, self.run) else None
        same = mine is not None and contents(mine["inputs"]) == contents(sources)
        if mine is not None and same and skip and self.is_whole(id, mine):
            return True, []
        if self.overwrite:
            return False, []
        if id in self.state.damaged:
            raise ResultInTheWayError(self.state.damaged[id])
        if mine is not None:
            return False, self.check_replaced(id, mine, sources, same)
        there = [n for n in result_files(id).values() if os.path.lexists(self.out / id / n)]
        if there and id not in self.state.listed():
            raise in_the_way(self.out, id, f"no record tells what made {there[0]} there")
        return False, ["its earlier result had no record of the scan, and was made again"] * bool(there)

    def check_replaced(self, id: str, record: CaseRecord, sources: Mapping[str, Source], same: bool) -> list[str]:
        """Return what to say about a result of this run that is made again, or refuse to lose it."""
        for kind, name in result_files(id).items():
            file = self.out / id / name
            if os.path.lexists(file) and hash_or_nothing(file) != record["sha256"].get(kind):
                raise in_the_way(self.out, id, f"{name} was changed after it was written")
        if same:
            return []
        for m in sorted((record["inputs"].keys() & sources.keys()) - {"seg"}):
            before, now = record["inputs"][m], sources[m]
            if before["sha256"] != now["sha256"] and not same_place(before["path"], now["path"]):
                raise in_the_way(self.out, id, f"it is that of another scan, {display_name(before['path'])}")
        return ["what it was made of has changed since, and it was made again"]

    def is_whole(self, id: str, record: CaseRecord) -> bool:
        """Return whether a case is done and its files are those that its record speaks of."""
        files = result_files(id)
        return record["case"]["status"] != "failed" and all(
            hash_or_nothing(self.out / id / name) == record["sha256"].get(kind) for kind, name in files.items()
        )

    def publish(self, found: Detection, sources: Mapping[str, Source], entry: Mapping[str, Any]) -> CaseEntry:
        """Put the result of a case in its place, as one, and write `detect.json`.

        Args:
            found: map, segmentation and report.
            sources: what the case was read from.
            entry: more for the case's entry: seconds, threshold, volume_ml.

        Raises:
            OtherResultsError: if another run has begun to write into the folder.
            ValueError: if the folder cannot be written.
        """
        id, files = found.case.id, result_files(found.case.id)
        done: Any = {"id": id, "status": "done", "files": {k: f"{id}/{n}" for k, n in files.items()}} | dict(entry)
        self.out.mkdir(parents=True, exist_ok=True)
        with writing(self.out), working_folder(self.out) as part:
            new = part / "new" / id
            new.mkdir(parents=True)
            found.write(new)
            hashes = {kind: hash_file(new / name) for kind, name in files.items()}
            record = self.run | {"command": self.command, "case": done, "inputs": sources, "sha256": hashes}
            (new / record_name(id)).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            with self.lock():
                self.check_place(id, sources)
                swap_in(new, self.out / id, part, {*files.values(), record_name(id)})
                self.failed.pop(id, None)
                self.remove_replaced()
                self.update()
        return done

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile; one that is stopped is not waited for.

        Without the lock nothing is lost either, see `update`.
        """
        with ExitStack() as stack:
            with suppress(FolderBusyError):
                stack.enter_context(folder_lock(self.out, "writing", PATIENCE))
            yield

    def check_place(self, id: str, sources: Mapping[str, Source]) -> None:
        """Refuse to go on where another process has written since: results of another run, or this case."""
        record = self.look().records.get(id)
        if record and record != self.seen.get(id) and contents(record["inputs"]) != contents(sources):
            raise in_the_way(self.out, id, "another process has put it there meanwhile")

    def remove_replaced(self) -> None:
        """Remove the results of other runs, of each its record last, which says whose they are."""
        self.state = read_state(self.out, self.state)
        for id in self.others().keys() & self.replaced.keys():
            folder = self.out / id
            for name in (*result_files(id).values(), record_name(id)):
                (folder / name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()

    def fail(self, id: str, entry: CaseEntry) -> None:
        """Note that a case could not be done; an earlier result of it no longer counts, and its record says so."""
        self.failed[id] = entry
        if not self.out.is_dir():
            return
        with writing(self.out), self.lock():
            record = read_state(self.out, self.state).records.get(id)
            if record is not None and record == self.seen.get(id, record) and same_run(record, self.run):
                text = json.dumps({**record, "case": entry}, indent=1) + "\n"
                write_atomic(self.out / id / record_name(id), text.encode())
            self.update()

    def settle(self) -> None:
        """Do what a run that was killed may have left undone after its last case; for a run that keeps cases."""
        with writing(self.out), self.lock():
            self.look()
            self.remove_replaced()
            self.update()

    def cases(self) -> list[CaseEntry]:
        """Return the entries of `detect.json`, sorted by name."""
        same = same_run(self.state.run, self.run)
        entries: dict[str, Any] = (self.without_record() if same else {}) | self.failed
        entries |= {id: {"id": id, "status": "failed", "error": why} for id, why in self.state.damaged.items()}
        entries |= {id: r["case"] for id, r in self.state.records.items() if same_run(r, self.run)}
        return [entries[id] for id in sorted(entries)]

    def update(self) -> None:
        """Write `detect.json` from what is there, again if meanwhile another process has added a case.

        Nothing is written before a case has succeeded, except where there is a `detect.json` of the same run.
        """
        for _ in range(5):
            state = self.state = read_state(self.out, self.state)
            result = self.run | {"cases": self.cases()}
            mine = bool(state.run) and same_run(state.run, self.run)
            if not mine and all(c["status"] == "failed" for c in result["cases"]):
                return
            if result != state.run:
                with writing(self.out):
                    write_atomic(self.out / RUN, (json.dumps(result, indent=1) + "\n").encode())
            if read_state(self.out, state).stamps == state.stamps:
                return


def in_the_way(out: Path, id: str, why: str) -> ResultInTheWayError:
    """Return the error for a case whose place is taken by what must not be lost."""
    return ResultInTheWayError(
        f"Cannot write {display_name(out / id)}: there is a result of this name, and {why}; "
        "choose another folder, or give --overwrite."
    )
