"""What a folder of results knows of itself: a record in each case's folder, and `detect.json`, which is made of them.

A case's folder takes its place as one, with its record in it, so a record never speaks of other maps, however many
processes write into the folder of results and whenever one of them is killed. `detect.json` is only a view of the
records, and is written anew from them after every case.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from mmccd.cases.filenames import NIFTI
from mmccd.cases.names import choose_files
from mmccd.cases.records import is_url
from mmccd.detection import bucket
from mmccd.detection.calibration import UNPROCESSED, stored_postprocessing
from mmccd.detection.report import record_name
from mmccd.errors import display_name
from mmccd.files import hash_or_nothing
from mmccd.schemas import checked_json, read_checked

RUN = "detect.json"
TODO = "put back a good copy, or remove the folder and detect again"


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
        names: of all files, as `ID/NAME`; of a bucket only.
    """

    run: RunRecord
    records: dict[str, CaseRecord]
    damaged: dict[str, str]
    stamps: dict[str, object]
    names: frozenset[str] = frozenset()

    def listed(self) -> dict[str, CaseEntry]:
        """Return the cases that `detect.json` alone knows: those of an older mmccd, and those that failed."""
        return {c["id"]: c for c in self.run.get("cases", []) if is_name(c["id"]) and c["id"] not in self.stamps}


def read_state(out: Path | str, before: State | None = None) -> State:
    """Read what a folder of results holds; it may be missing.

    Args:
        out: the folder, or its URL.
        before: what it held a while ago: records that have not changed since are not read again.

    Raises:
        ValueError: if `detect.json` is damaged, or a bucket cannot be read.
    """
    if is_url(out):
        return read_bucket(str(out), before)
    out = Path(out)
    run: RunRecord = read_checked(out / RUN, RunRecord) if os.path.lexists(out / RUN) else {}
    records: dict[str, CaseRecord] = {}
    damaged: dict[str, str] = {}
    stamps: dict[str, object] = {}
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
            records[id] = read_checked(path, CaseRecord, TODO)
        except ValueError as error:
            damaged[id] = str(error)
    return State(run, records, damaged, stamps)


def read_bucket(out: str, before: State | None = None) -> State:
    """Read what a bucket holds, as `read_state` does of a folder; what is read, is fetched together."""
    found = bucket.list_files(out)
    ids = sorted({name.split("/")[0] for name in found if "/" in name})
    ids = [id for id in ids if f"{id}/{bucket.MARK}" not in found]  # one whose writing was stopped has no result
    stamps = {id: str(found[name]) for id in ids if (name := f"{id}/{record_name(id)}") in found}
    names = frozenset(name for name in found if name.split("/")[0] in ids)
    old = {id: before.records[id] for id in stamps if before and id in before.records}
    state = State({}, {id: r for id, r in old.items() if before and before.stamps[id] == stamps[id]}, {}, {}, names)
    wanted = {f"{id}/{record_name(id)}": id for id in stamps if id not in state.records}
    wanted |= {RUN: ""} if RUN in found else {}
    for (name, id), content in zip(wanted.items(), bucket.read_files(out, list(wanted))):
        if isinstance(content, FileNotFoundError):
            stamps.pop(id, None)  # it was removed meanwhile
        elif isinstance(content, Exception):
            raise ValueError(f"Cannot read {display_name(f'{out}/{name}')}: {content}; run it again.") from content
        elif name == RUN:
            state.run.update(checked_json(content, RunRecord, f"{out}/{name}"))
        else:
            try:
                state.records[id] = checked_json(content, CaseRecord, f"{out}/{name}", TODO)
            except ValueError as error:
                state.damaged[id] = str(error)
    state.stamps.update(stamps)
    return state
