"""Who is who in a store: what `--subjects` said, kept in a file beside the cases, so that later commands know."""

import json
from collections.abc import Iterable, Mapping

from mmccd.cases.filenames import nfc
from mmccd.cases.records import Place, checksum, is_url, open_files, read_json, store_error, store_errors
from mmccd.cases.subjects import Subjects, subject_of
from mmccd.files import write_atomic
from mmccd.runtime import counted

FILE = "subjects.json"


def stored_subjects(place: Place) -> dict[str, str]:
    """Return the person by name of the case, as far as a store was told; empty where nobody said.

    Raises:
        ValueError: if the file is damaged, or cannot be read.
    """
    files, root = open_files(place)
    with store_errors(place):
        try:
            found = read_json(files, f"{root}/{FILE}")
        except FileNotFoundError:
            return {}
        except ValueError:
            found = {}
    subjects = found.get("subjects")
    if not isinstance(subjects, dict) or found.get("sha256") != checksum(subjects):
        raise store_error(
            place, f"its {FILE} is damaged", f"delete {FILE} in it, and say again who is who (--subjects)"
        )
    return subjects


def same_slices(checks: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the person by name of each case that has a slice in common with an earlier one: a copy of another name.

    Args:
        checks: checksums of the slices by name of the case.
    """
    person: dict[str, str] = {}
    owner: dict[str, str] = {}
    for id, slices in checks.items():
        slices = set(slices)
        mine = subject_of(id)
        found = next((owner[s] for s in sorted(slices & owner.keys())), mine)
        if found != mine:
            person[nfc(id)] = found
        owner |= dict.fromkeys(slices, found)
    return person


def store_subjects(place: Place, subjects: Subjects) -> None:
    """Add to what a store knows of who is who; where both speak of a case, the new word counts.

    Raises:
        ValueError: if it cannot be read or written.
    """
    if not subjects:
        return
    known = {**stored_subjects(place), **subjects}
    content = (json.dumps({"subjects": known, "sha256": checksum(known)}, indent=1, ensure_ascii=False) + "\n").encode()
    files, root = open_files(place)
    with store_errors(place):
        if is_url(place):
            files.pipe_file(f"{root}/{FILE}", content)
        else:
            write_atomic(f"{root}/{FILE}", content)


def check_subjects(subjects: Subjects, ids: Iterable[str], said_by: object) -> list[str]:
    """Return a sentence on the names that are no case, if some are.

    Args:
        subjects: who is who.
        ids: the cases there are.
        said_by: the file, for the sentences.

    Raises:
        ValueError: if none of the names is a case.
    """
    there = {nfc(i).removesuffix("_healthy_twin") for i in ids}
    absent = sorted(set(subjects) - there)
    if absent and len(absent) == len(subjects):
        raise ValueError(
            f"Cannot use {said_by}: none of its {counted(len(absent), 'name')}, such as {absent[0]}, is a case; write "
            f"the names of the cases, such as {min(there, default='sub-01')}."
        )
    return [f"{counted(len(absent), 'name')} in {said_by} is no case here, such as {absent[0]}"] if absent else []
