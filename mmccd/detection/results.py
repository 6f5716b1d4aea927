"""The folder or bucket that a run of `detect` writes its results into, perhaps beside others; see `records`."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmccd.cases.records import is_url
from mmccd.detection import bucket
from mmccd.detection.records import (
    RUN,
    CaseEntry,
    CaseRecord,
    OtherResultsError,
    ResultInTheWayError,
    Source,
    State,
    contents,
    made_by,
    read_state,
    same_place,
    same_run,
)
from mmccd.detection.report import Detection, record_name, result_files
from mmccd.errors import display_name
from mmccd.files import (
    PATIENCE,
    FolderBusyError,
    folder_lock,
    hash_file,
    hash_or_nothing,
    output_folder,
    remove_leftovers,
    swap_in,
    working_folder,
    write_atomic,
    writing,
)


@dataclass
class ResultFolder:
    """A folder of results that a run writes into, perhaps beside others.

    Attributes:
        out: the folder, or its URL.
        run: what the run is, from `describe_run`.
        overwrite: may results of other runs, and of other scans, be replaced?
        command: the command line, for the records.
        failed: entries of cases that could not be done.
        state: what the folder held when it was last looked at.
        replaced: what it held of other runs at the beginning, by id: a record, or None where there is none.
        seen: the record of a case, if there was one, when this run came to it.
    """

    out: Path | str
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
            if c["status"] == "failed" or self.has(id, result_files(id)["anomaly"])
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
        there = [n for n in result_files(id).values() if self.has(id, n)]
        if there and id not in self.state.listed():
            raise in_the_way(self.out, id, f"no record tells what made {there[0]} there")
        return False, ["its earlier result had no record of the scan, and was made again"] * bool(there)

    def check_replaced(self, id: str, record: CaseRecord, sources: Mapping[str, Source], same: bool) -> list[str]:
        """Return what to say about a result of this run that is made again, or refuse to lose it."""
        for kind, name in result_files(id).items():
            if self.has(id, name) and not self.is_written(id, name, record["sha256"].get(kind)):
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
            self.is_written(id, name, record["sha256"].get(kind)) for kind, name in files.items()
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
        with writing(self.out), self.beside(id) as new:
            found.write(new)
            hashes = {kind: hash_file(new / name) for kind, name in files.items()}
            record = self.run | {"command": self.command, "case": done, "inputs": sources, "sha256": hashes}
            (new / record_name(id)).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            with self.lock():
                self.check_place(id, sources)
                self.put(new)
                self.failed.pop(id, None)
                self.remove_replaced()
                self.update()
        return done

    def check_place(self, id: str, sources: Mapping[str, Source]) -> None:
        """Refuse to go on where another process has written since: results of another run, or this case."""
        record = self.look().records.get(id)
        if record and record != self.seen.get(id) and contents(record["inputs"]) != contents(sources):
            raise in_the_way(self.out, id, "another process has put it there meanwhile")

    def remove_replaced(self) -> None:
        """Remove the results of other runs, of each its record last, which says whose they are."""
        self.state = read_state(self.out, self.state)
        for id in self.others().keys() & self.replaced.keys():
            self.remove(id, (*result_files(id).values(), record_name(id)))

    def fail(self, id: str, entry: CaseEntry) -> None:
        """Note that a case could not be done; an earlier result of it no longer counts, and its record says so."""
        self.failed[id] = entry
        if not self.is_there():
            return
        with writing(self.out), self.lock():
            record = read_state(self.out, self.state).records.get(id)
            if record is not None and record == self.seen.get(id, record) and same_run(record, self.run):
                text = json.dumps({**record, "case": entry}, indent=1) + "\n"
                self.write(f"{id}/{record_name(id)}", text.encode())
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
                    self.write(RUN, (json.dumps(result, indent=1) + "\n").encode())
            if read_state(self.out, state).stamps == state.stamps:
                return

    # what a bucket does in another way

    def is_there(self) -> bool:
        """Return whether anything can lie in the folder."""
        return Path(self.out).is_dir()

    def has(self, id: str, name: str) -> bool:
        """Return whether a file of this name lies in a case's folder."""
        return os.path.lexists(Path(self.out, id, name))

    def is_written(self, id: str, name: str, sha256: str | None) -> bool:
        """Return whether a file in a case's folder is the one that was written."""
        return hash_or_nothing(Path(self.out, id, name)) == sha256

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile; one that is stopped is not waited for.

        Without the lock nothing is lost either, see `update`.
        """
        with ExitStack() as stack:
            with suppress(FolderBusyError):
                stack.enter_context(folder_lock(self.out, "writing", PATIENCE))
            yield

    @contextmanager
    def beside(self, id: str) -> Iterator[Path]:
        """Give a folder with the name of a case to write its result into, which is gone at the end."""
        Path(self.out).mkdir(parents=True, exist_ok=True)
        with working_folder(self.out) as part:
            (new := part / "new" / id).mkdir(parents=True)
            yield new

    def put(self, new: Path) -> None:
        """Put a folder from `beside` in its place, as one."""
        ours = {*result_files(new.name).values(), record_name(new.name)}
        swap_in(new, Path(self.out, new.name), new.parents[1], ours)

    def write(self, name: str, content: bytes) -> None:
        """Write a file below the folder, whole or not at all."""
        write_atomic(Path(self.out, name), content)

    def remove(self, id: str, names: Sequence[str]) -> None:
        """Remove files of a case in this order, and its folder if it is empty then."""
        folder = Path(self.out, id)
        for name in names:
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


class ResultBucket(ResultFolder):
    """Results behind a URL. A result is made in a folder of this computer, and its record is put there last.

    That the files of a record are there is looked at, not what is in them, which would have to be fetched. A bucket
    takes few writes to one name a second, so `detect.json` is written once, by `settle`.
    """

    def is_there(self) -> bool:
        return bool(self.state.names)

    def has(self, id: str, name: str) -> bool:
        return f"{id}/{name}" in self.state.names

    def is_written(self, id: str, name: str, sha256: str | None) -> bool:
        return self.has(id, name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    @contextmanager
    def beside(self, id: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as part:
            (new := Path(part) / id).mkdir()
            yield new

    def put(self, new: Path) -> None:
        bucket.put_result(str(self.out), new)

    def write(self, name: str, content: bytes) -> None:
        bucket.write_file(str(self.out), name, content)

    def remove(self, id: str, names: Sequence[str]) -> None:
        bucket.remove_files(str(self.out), [f"{id}/{name}" for name in names])

    def update(self) -> None:
        self.state = read_state(self.out, self.state)

    def settle(self) -> None:
        with writing(self.out):
            self.look()
            self.remove_replaced()
            super().update()


@contextmanager
def open_results(
    out: Path | str, run: dict[str, Any], overwrite: bool = False, command: str = ""
) -> Iterator[ResultFolder]:
    """Give the folder or bucket that a run writes into; a folder that is still empty at the end is taken away again.

    Args:
        out: a path or an fsspec URL.
        run: what the run is, from `describe_run`.
        overwrite: may results of other runs, and of other scans, be replaced?
        command: the command line, for the records.

    Raises:
        ValueError: if nothing can be written there; `OtherResultsError` if it holds results of another run.
    """
    if is_url(out):
        yield ResultBucket(str(out), run, overwrite, command)
        return
    with output_folder(out) as folder:
        remove_leftovers(folder)
        yield ResultFolder(folder, run, overwrite, command)
        remove_leftovers(folder)


def in_the_way(out: Path | str, id: str, why: str) -> ResultInTheWayError:
    """Return the error for a case whose place is taken by what must not be lost."""
    return ResultInTheWayError(
        f"Cannot write {display_name(f'{out}/{id}')}: there is a result of this name, and {why}; "
        "choose another folder, or give --overwrite."
    )
