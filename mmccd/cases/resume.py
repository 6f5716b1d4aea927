"""What of a store is done already, what has changed since and is done again, and what the store lacks to train on."""

import hashlib
import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from mmccd.anatomy import MODALITIES
from mmccd.cases.names import choose_files, find_files
from mmccd.cases.records import Cases, Place, Recipe, Record, case_error, is_url
from mmccd.cases.shards import fetch, open_case, unpack_slice
from mmccd.errors import display_name, format_error
from mmccd.files import hash_or_nothing
from mmccd.progress import track
from mmccd.runtime import counted

Source = str | PathLike[str] | dict[str, Any]  # path of a case, or {"kind", "index"} of a phantom
Task = tuple[str, Source]  # a case's id, and where it comes from


def source_files(source: Source, recipe: Recipe) -> dict[str, Any]:
    """Return what tells a case from another of the same name.

    Of a phantom its origin; else SHA-256 of each of its files by name, and a checksum of the folder they lie in.
    """
    if isinstance(source, dict):
        return source
    files, seg = choose_files(source, recipe["modalities"])
    paths = [Path(p) for p in (*files.values(), seg) if p]
    folder = hashlib.sha256(os.fsencode(os.path.realpath(paths[0].parent))).hexdigest()[:16]
    return {"folder": folder, "files": {p.name: hash_or_nothing(p) for p in paths}}


def check_recipe(old: Recipe, new: Recipe, place: Place) -> None:
    """Check that a recipe is that of the store.

    Raises:
        ValueError: if they differ in anything but the version of mmccd.
    """

    def words(key: str, value: Any) -> str:
        if key != "phantom":
            return f"{key.replace('_', '-')} {json.dumps(value)}"
        if value is None:
            return "of scans"
        facts = (f"{k} {' and '.join(v) if isinstance(v, list) else v}" for k, v in value.items())
        return f"of phantoms ({', '.join(facts)})"

    for key in new:
        if key != "mmccd" and old.get(key) != new[key]:
            made = "with " * (key != "phantom") + words(key, old.get(key))
            raise ValueError(
                f"The store {display_name(place)} was made {made}, not {words(key, new[key])}; "
                "choose another place, or ask for the same."
            )


def why_again(id: str, source: Source, place: Place, recipe: Recipe, cases: Cases) -> str | None:
    """Say why a case has to be prepared though the store has heard of it; "" if it has not, None if it is done.

    Raises:
        ValueError: if the case shares only its name with the one in the store, or cannot be read.
    """
    if id in cases.unfinished or id in cases.damaged:
        return f"{cases.damaged[id]} in the store" if id in cases.damaged else ""
    if id not in cases.records:
        return ""
    record, now = cases.records[id], source_files(source, recipe)
    old = record["source"]
    if old.get("files", old) != now.get("files", now):
        if "folder" not in now or old.get("folder") != now["folder"]:
            raise ValueError(
                f"{id} is in the store already, made of other files; rename this case, or choose another store; "
                f"if the files were corrected, delete {display_name(place)}/{id}."
            )
        return "its files have changed since"
    try:
        case, n = open_case(place, id, record, recipe) if record["rows"] else None, len(record["rows"])
        if case and not is_url(place):  # a distant store would be fetched whole
            for k, packed in enumerate(fetch(place, [(case, k) for k in range(n)])):
                unpack_slice(case, k, packed)
    except PermissionError:
        raise
    except Exception:  # whatever zstd or the file system says
        return "it is damaged in the store"
    return None


def unfinished(
    tasks: Sequence[Task], place: Place, recipe: Recipe, cases: Cases, progress: bool = True
) -> tuple[list[Task], list[str], list[dict[str, str]], list[str]]:
    """Tell the cases that are still to do from those that are done.

    Returns:
        Tasks to do; ids that are done; {"id", "error"} of cases that share only the name with one that is done, or are
        damaged in the store and not among the tasks; and a sentence for each case that is done again.
    """
    todo: list[Task] = []
    done: list[str] = []
    failed: list[dict[str, str]] = []
    notes: list[str] = []
    for id, source in track(tasks, "check", "case", show=progress and bool(cases.records)):
        try:
            why = why_again(id, source, place, recipe, cases)
        except Exception as error:
            failed.append({"id": id, "error": format_error(error)})
            continue
        if why is None:
            done.append(id)
        else:
            todo.append((id, source))
            notes += [f"{id}: {why}, so it is prepared again"] if why else []
    for id in sorted(set(cases.damaged) - {id for id, _ in tasks}):
        failed.append({"id": id, "error": str(case_error(place, id, cases.damaged[id]))})
    return todo, done, failed, notes


def first_modalities(tasks: Sequence[Task], notes: list[str] | None = None) -> list[str]:
    """Return the modalities of the first case that can be read.

    Args:
        tasks: the cases.
        notes: is given a sentence on each modality that is left out because two files of that case claim to be it.

    Raises:
        ValueError: if there is none.
    """
    problem: Exception | None = None
    for id, path in tasks:
        if isinstance(path, dict):
            return list(MODALITIES)
        try:
            files = find_files(path)
            if notes is not None:
                notes += [f"{id}: {note}" for note in files.notes if set(files.images) < set(MODALITIES)]
            return list(files.images)
        except (ValueError, OSError) as error:
            problem = problem or error
    raise problem or ValueError("There is nothing to prepare: the list of cases is empty.")


def lacks(records: dict[str, Record]) -> list[str]:
    """Say in a sentence why the cases of a store are not enough to train on; nothing where they are."""
    rows = [row for r in records.values() for row in r["rows"]]
    ill, unknown = sum(bool(row[2]) for row in rows), sum(row[2] is None for row in rows)
    healthy = [id for id, r in records.items() if any(row[2] == 0 for row in r["rows"])]
    if not rows or len(healthy) > 1:
        return []
    if healthy:
        what = f"only {healthy[0]} has slices free of lesion"
    elif unknown:
        what = f"no slice is known to be free of lesion: {ill} show one, {unknown} come without a segmentation"
    else:
        what = f"all {counted(ill, 'slice')} show lesion"
    return [
        f"{what}; train needs slices free of lesion of at least two people, one of them to validate on: "
        "prepare more cases into this store, or more slices of them (--slices all) into another"
    ]
