"""What the maps in a folder of results were made from, compared with what lies there now and with the truth."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmccd.cases.records import is_url
from mmccd.cases.subjects import subject_of
from mmccd.detection.records import CaseRecord, RunRecord, State, made_by, read_sources, same_run
from mmccd.detection.report import result_files
from mmccd.errors import display_name
from mmccd.files import hash_or_nothing

SHOWN = 5  # names of cases in a note, at most

NOTES = {
    "record": "no record tells what made the map, so whether the threshold fits it is not known",
    "map": "the map was changed after detect had written it",
    "scan": "the file of the scan is not the one that the map was made of; detect it again",
    "seg": "the segmentation is not the one that the report was made with",
}
"""What may be odd about a map that is scored all the same."""


def find_run(out: Path | str, state: State) -> RunRecord:
    """Return what made the maps of a folder: what `detect.json` says, or without it the records; empty if nothing does.

    Raises:
        ValueError: if there is no `detect.json`, and the records are those of several runs.
    """
    if state.run or not state.records:
        return state.run
    ids = sorted(state.records)
    first = state.records[ids[0]]
    for id in ids:
        if not same_run(state.records[id], first):
            both = f"{display_name(ids[0])} by {made_by(first)}, {display_name(id)} by {made_by(state.records[id])}"
            raise ValueError(
                f"Cannot score {display_name(out)}: its maps were made by several detectors or with several settings "
                f"({both}); detect again, with --overwrite."
            )
    return first


def scored_ids(out: Path | str, state: State) -> list[str]:
    """Return the names of the cases to score: those with a map, and those that ought to have one, but not the failed.

    Args:
        out: folder of results.
        state: what it holds.
    """
    found = [name.split("/") for name in state.names] if is_url(out) else [p.parts[-2:] for p in Path(out).glob("*/*")]
    maps = {id for id, *names in found if names == [result_files(id)["anomaly"]]}
    entries = state.listed() | {id: r["case"] for id, r in state.records.items()}
    done = {id for id, c in entries.items() if c["status"] != "failed"}
    return sorted((maps | done) - (entries.keys() - done))


def check_origin(id: str, state: State, run: RunRecord) -> None:
    """Refuse a map of which the record is damaged, or says that another run made it than the others.

    Raises:
        ValueError: if so.
    """
    if id in state.damaged:
        raise ValueError(state.damaged[id])
    record = state.records.get(id)
    if record is not None and not same_run(record, run):
        raise ValueError(
            f"Cannot score {display_name(id)}: its map was made by {made_by(record)} and the others by {made_by(run)}, "
            "or with other weights or another threshold; detect it again."
        )


def input_of_record(id: str, state: State, run: RunRecord) -> str | None:
    """Return what the detector was given of a case, several modalities joined by +; None where nothing tells it."""
    record = state.records.get(id)
    entries = [record["case"]] if record else [c for c in run.get("cases", []) if c["id"] == id]
    return next((c["input"] for c in entries if c.get("input")), run.get("input"))


def odd_things(id: str, out: Path, state: State, truth: Path, input: str | None) -> list[str]:
    """Return what is odd about a case that is scored, as keys of `NOTES`.

    Args:
        id: name of the case.
        out: folder of results.
        state: what it holds.
        truth: the case's folder with the truth.
        input: modality that the detector was given.
    """
    record = state.records.get(id)
    if record is None:
        return ["record"] * bool(state.run or state.records)
    odd = ["map"] * (hash_or_nothing(out / id / result_files(id)["anomaly"]) != record["sha256"].get("anomaly"))
    return odd + changed_sources(record, truth, input)


def changed_sources(record: CaseRecord, truth: Path, input: str | None) -> list[str]:
    """Return "scan" and "seg", where the file beside the truth is not the one that the record speaks of."""
    if not input:
        return []
    now, before = read_sources(truth, input), record["inputs"]
    changed = {role for role in now.keys() & before.keys() if now[role]["sha256"] != before[role]["sha256"]}
    return ["scan"] * bool(changed - {"seg"}) + ["seg"] * ("seg" in changed)


def note_lines(odd: Mapping[str, Iterable[str]], state: State) -> list[str]:
    """Return a line for each kind of oddity, with the names of the cases.

    Args:
        odd: keys of `NOTES` by name of a case that is scored.
        state: what the folder of results holds.
    """
    lines = []
    for key, words in NOTES.items():
        if ids := sorted(id for id, found in odd.items() if key in found):
            lines.append(f"{some_names(ids)}: {words}.")
    versions = sorted({str(state.records[id].get("mmccd")) for id in odd if id in state.records})
    if len(versions) > 1:
        lines.append(f"The maps were made by several versions of mmccd: {', '.join(versions)}; detect them again.")
    return lines


def calibration_notes(ids: Iterable[str], run: RunRecord) -> list[str]:
    """Return a line on the scored cases of people on whom the threshold was set; none where there are none.

    Args:
        ids: of the cases that are scored.
        run: what made their maps.
    """
    cases = (run.get("calibration") or {}).get("cases")
    used = {subject_of(str(id)) for id in cases} if isinstance(cases, list) else set()
    both = sorted(id for id in ids if subject_of(id) in used)
    words = "the threshold was set on healthy scans of the same people, so these scores do not hold for others"
    return [f"{some_names(both)}: {words}."] if both else []


def some_names(ids: Sequence[str]) -> str:
    """Return the first names of cases, and how many more there are."""
    more = f" and {len(ids) - SHOWN} more" if ids[SHOWN:] else ""
    return display_name(", ".join(ids[:SHOWN]) + more)
