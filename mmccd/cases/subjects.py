"""Who may be in training, validation and test: splits by person, and lists of names."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from os import PathLike

import numpy as np

from mmccd.cases.filenames import nfc
from mmccd.errors import display_name, file_error
from mmccd.files import user_path
from mmccd.runtime import counted

Subjects = Mapping[str, str]
"""Who is who: name of the person by name of the case, as `read_subjects` reads it."""

FEW_SUBJECTS = 3  # to set a threshold on; with fewer it says little about other people
SHOWN = 2  # groups of names in a note
HEADINGS = frozenset({"id", "case", "case_id", "caseid", "scan", "session", "name", "file", "folder", "image"})

_DATA_SETS = (  # names of public data sets; the first group is the person
    r"(phantom\d+-[a-z]+-s\d+-\d+)",
    r"(BraTS(?:-[A-Za-z]+)+-\d+)-\d+(?:-\d+)?",
    r"(BraTS1[789]_\w+)_\d+",
    r"(BraTS(?:20|2021)_(?:Training_|Validation_)?\d+)",
    r"(UPENN-GBM-\d+)_\d+",
    r"(UCSF-PDGM-\d+)(?:_FU\w*)?(?:_nifti)?",
    r"(?:sub-)?(OAS[12]_\d+|OAS\d{5})(?:_MR.*|_d\d+.*|_ses.*)?",
    r"(?:ADNI_)?(\d{3}_S_\d{4,5})(?:_.*)?",
    r"(IXI\d{3})-\w+-\d+(?:[-_]\w+)*",
    r"(brats_tcia_pat\d+)_\d+",
    r"(\d{7})_20\d{3}_\d_\d",  # UK Biobank
    r"(NDARINV[A-Z0-9]{8})_\w+",  # ABCD
    r"(TCGA-\w{2}-\w{4})(?:[-_.].*)?",
    r"((?:training|test)\d{2})_\d{2}",  # ISBI 2015
    r"(kirby\d+)-\d+",
)
_NUMBERED = (
    r"ses(?:sion)?|visit|vis|tp|time(?:[-_ ]?point)?|week|wk|month|mo|day|year|yr|scan|exam|study|rep|run|acq|"
    r"fu|follow[-_ ]?up"
)
_ALONE = (
    r"fu|follow[-_ ]?up|baseline|bl|(?:pre|post)(?:[-_ ]?(?:op|treatment|therapy|rt|surgery))?|before|after|initial|"
    r"intra[-_ ]?op|"
    r"recurrence|relapse|progression|test|retest|rescan|repeat"
)
_MADE = (
    r"flair|t1w|t2w|t1ce|t1c|t1gd|nifti|nii|mri?|anat\d*|images?|raw|orig(?:inal)?|native|pre[-_ ]?proc(?:essed)?|"
    r"processed|pp|registered|reg|mni(?:152)?|n4|bet|hd[-_]?bet|brain|stripped|skull[-_ ]?strip(?:ped)?|ss|synthstrip|"
    r"data|masked|defaced|copy|kopie|copie|flipped|mirrored|new|old|final|bak|backup|unstripped|\(\d+\)"
)
_DATE = (
    r"(?:19|20)\d\d(?P<sep>[-._]?)(?:0[1-9]|1[0-2])(?P=sep)(?:0[1-9]|[12]\d|3[01])(?:[-_T]?\d{4,6})?|"
    r"\d\d(?P<dot>[-.])\d\d(?P=dot)(?:19|20)\d\d"
)
DATA_SETS = tuple(re.compile(pattern, re.I) for pattern in _DATA_SETS)
BIDS_SUBJECT = re.compile(r"(?:.*?_)?sub-[A-Za-z0-9]+(?=$|[_.])", re.I)
ENTITY = re.compile(
    r"(?:^|_)(?:ses|acq|ce|rec|run|echo|part|inv|chunk|space|desc|label|res|den|mod|task|dir|trc|split|recording|proc)"
    r"-[^_]+",
    re.I,
)
LATER = re.compile(
    rf"[-_. ]+(?:(?:{_NUMBERED})[-_ ]?\d+[a-z]?(?:[-_]\d)?|(?:{_ALONE})\d*|[vt]\d+|(?<=\d[-_. ])[mdwy]\d+|"
    rf"\d+[-_ ]?(?:months?|mo|weeks?|wks?|days?|years?|yrs?|[mwdy])|first|second|third|last|early|late|"
    rf"[1-4](?:st|nd|rd|th)|"
    rf"{_MADE}|{_DATE})$",
    re.I,
)
"""What follows the person in the name of a visit: a session, a time, a date, or what was made."""
FIRST = re.compile(
    r"^(?:(?:visit|tp|time[-_ ]?point|week|month|follow[-_ ]?up)[-_ ]?\d+|baseline|follow[-_ ]?up|"
    rf"{_DATE})[-_. ]+(?=\w)",
    re.I,
)
"""What goes before the person in such a name."""
VISIT = re.compile(
    r"ses-\w+|(?:ses(?:sion)?|visit|tp|time(?:[-_ ]?point)?|week|wk|month|day|year|fu|follow[-_ ]?up)"
    r"[-_ ]?\d+(?:[-_]\d)?|"
    rf"baseline|follow[-_ ]?up|(?:pre|post|intra)[-_ ]?op|{_DATE}",
    re.I,
)
"""A whole name that says when, and not who: that of a folder in a patient's folder."""
_NO_YEAR = r"(?<!\d)(?!(?:19|20)\d\d[-_. ])"
COUNTED = re.compile(
    rf"(?P<a>.*{_NO_YEAR}\d+)[-_. ]+(?:[1-9]|[a-d])|(?P<b>.*{_NO_YEAR}\d{{2,}})(?:[-_. ]+0[1-9]|[a-d])", re.I
)
"""A small number or letter behind a longer number: perhaps a visit of one person, perhaps another person."""


def subject_of(id: str, subjects: Subjects | None = None) -> str:
    """Return the name of the person a case belongs to; twins, visits, sessions, runs and copies are one person's.

    Where the name leaves doubt, cases are kept together (see `doubtful_subjects`).

    Args:
        id: of the case.
        subjects: decides for the cases it names.
    """
    id = nfc(id).removesuffix("_healthy_twin")
    if subjects and id in subjects:
        return subjects[id]
    if person := known_subject(id):
        return person
    person = without_time(id)
    number = COUNTED.fullmatch(person) if not VISIT.fullmatch(person) else None
    return number["a"] or number["b"] if number else person


def known_subject(id: str) -> str:
    """Return the person where a public data set or BIDS says how a case is called; else ""."""
    for pattern in DATA_SETS:
        if found := pattern.fullmatch(id):
            return found[1]
    bids = BIDS_SUBJECT.match(ENTITY.sub("", id).strip("_"))
    return bids[0] if bids else ""


def without_time(id: str) -> str:
    """Return a name without the words that speak of a session, a time or a date, unless nothing else is left."""
    id = FIRST.sub("", ENTITY.sub("", id).strip("_") or id)
    while (later := LATER.search(id)) and later.start() > 0:
        id = id[: later.start()]
    return id


def doubtful_subjects(ids: Iterable[str], subjects: Subjects | None = None) -> list[str]:
    """Return a line on the cases that are taken for one person's though their names leave doubt; none without doubt.

    Args:
        ids: of the cases.
        subjects: decides for the cases it names.
    """
    groups: dict[str, dict[str, str]] = {}
    for id in sorted(set(ids)):
        name = nfc(id).removesuffix("_healthy_twin")
        if not known_subject(name) and name not in (subjects or ()):
            groups.setdefault(subject_of(name), {}).setdefault(without_time(name), id)
    doubtful = [list(g.values()) for g in groups.values() if len(g) > 1]
    if not doubtful:
        return []
    said = "; ".join(" and ".join(g[:2]) + (" and others" if len(g) > 2 else "") for g in doubtful[:SHOWN])
    more = f" (and {len(doubtful) - SHOWN} groups more)" if len(doubtful) > SHOWN else ""
    return [f"taken for one person: {said}{more}; if they are several, say who is who by --subjects"]


def few_subjects_notes(n: int, purpose: str, option: str = "") -> list[str]:
    """Return a sentence of warning where a threshold rests on few people; none where they are enough, or not known.

    Args:
        n: people.
        purpose: what they are, such as "validation" or "healthy".
        option: of the command line that gives more.
    """
    if not 0 < n < FEW_SUBJECTS:
        return []
    how = f" ({option})" if option else ""
    return [
        f"the threshold rests on {counted(n, f'{purpose} subject')} only, and may be far off for others: better take "
        f"{FEW_SUBJECTS} or more{how}"
    ]


def part_size(share: float, n: int) -> int:
    """Return how many of `n` subjects a share is: at least one, unless the share is 0.

    Args:
        share: in [0, 1), or how many (a whole number from 1).
        n: subjects.

    Raises:
        ValueError: if the share is neither.
    """
    if not 0 <= share < np.inf or (share >= 1 and share != int(share)):
        raise ValueError(f"A part of the subjects must be a share from 0 to 1 or a whole number, got {share}.")
    return int(share) if share >= 1 else max(1, round(share * n)) if share else 0


def split_subjects(
    ids: Iterable[str], val: float = 0.1, test: float = 0, seed: int = 0, subjects: Subjects | None = None
) -> dict[str, list[str]]:
    """Split cases by subject; the same names and seed give the same parts.

    Args:
        ids: names of cases, in any order; repeats do no harm.
        val: share of the subjects for validation, or how many.
        test: the same for test.
        seed: another seed, another split.
        subjects: who is who, for the cases it names.

    Returns:
        Names by part: "train", "val", "test", each sorted.

    Raises:
        ValueError: if nobody is left to train on.
    """
    person = {id: subject_of(id, subjects) for id in sorted(set(ids))}
    people = sorted(set(person.values()))
    n_val, n_test = (part_size(share, len(people)) for share in (val, test))
    if n_val + n_test >= max(len(people), 1):
        raise ValueError(
            f"Cannot split {counted(len(people), 'subject')}: {n_val} for validation and {n_test} for test leave none "
            "to train on; prepare more, ask for smaller parts, or say who is who by --subjects."
        )
    order = sorted(people, key=lambda s: hashlib.sha256(f"{seed}/{s}".encode()).digest())
    part = {s: "val" if k < n_val else "test" if k < n_val + n_test else "train" for k, s in enumerate(order)}
    return {name: [i for i in person if part[person[i]] == name] for name in ("train", "val", "test")}


def read_text(path: str | PathLike[str], todo: str) -> str:
    """Return the text of a list.

    Raises:
        ValueError: if there is no such file, or it is no text; `todo` says what should be in it.
    """
    path = user_path(path)
    if not path.is_file():
        raise file_error(path, "there is no such file", "check the path of the list")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, "it is not plain text", f"save it as UTF-8, {todo}") from error


def read_list(path: str | PathLike[str]) -> list[str]:
    """Read names, one a line, in the file's order and in NFC; blank lines and lines that start with # do not count.

    Raises:
        ValueError: if there is no such file, it is no text, holds no name, or a name twice.
    """
    lines = [nfc(line.strip()) for line in read_text(path, "a name a line").splitlines()]
    names = [n for n in lines if n and not n.startswith("#")]
    if not names:
        raise file_error(path, "it holds no name", "write a name a line")
    twice = sorted(n for n, k in Counter(names).items() if k > 1)
    if twice:
        raise file_error(path, f"{twice[0]} is in it twice", "remove one")
    return names


def read_subjects(path: str | PathLike[str]) -> dict[str, str]:
    """Read who is who: a case and its person a line, with a comma, semicolon, tab or space between them.

    A first line of headings does not count, nor do blank lines and those that start with #.

    Raises:
        ValueError: if there is no such file, it is no text, a line does not hold two names, or a case has two persons.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(read_text(path, "a case and its person a line").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        between = next((c for c in ",;\t" if c in line), None)
        cells = next(csv.reader([line], delimiter=between)) if between else line.split()
        cells = [nfc(c.strip()) for c in cells]
        if len(cells) != 2 or not all(cells):
            raise file_error(path, f"line {number} does not hold two names", "write a case and its person a line")
        if not found and cells[0].lower().replace(" ", "_") in HEADINGS:
            continue
        id = cells[0].removesuffix("_healthy_twin")
        if found.setdefault(id, cells[1]) != cells[1]:
            raise file_error(path, f"{id} belongs to {found[id]} and to {cells[1]}", "keep one of the two")
    if not found:
        raise file_error(path, "it holds no name", "write a case and its person a line")
    return found


def split_from_lists(
    ids: Iterable[str], partial: bool = False, subjects: Subjects | None = None, **files: str | PathLike[str]
) -> dict[str, list[str]]:
    """Split cases as list files say.

    Args:
        ids: names of the cases there are.
        partial: leave out names in a list that have no case, instead of refusing them.
        subjects: who is who, for the cases it names.
        **files: list file by part: train="train.txt", val=..., test=...

    Returns:
        Names by part, as `ids` spells them, sorted.

    Raises:
        ValueError: if a person is in two lists, or a name has no case.
    """
    parts, there = {name: read_list(path) for name, path in files.items()}, {nfc(i): i for i in ids}
    missing: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for name, names in parts.items():
        for i in names:
            person = subject_of(i, subjects)
            first = owner.setdefault(person, name)
            if first != name:
                both = f"{display_name(files[first])}, {display_name(files[name])}"
                doubt = "" if person == i else f" ({i} is taken for {person}; if it is not, say so by --subjects)"
                raise ValueError(
                    f"{person} is in the list for {first} and in that for {name}: {both}; remove it from one{doubt}."
                )
        if absent := sorted(set(names) - there.keys()):
            missing[name] = absent
    if missing and not partial:
        raise _missing_error(missing, files)
    return {name: sorted(there[i] for i in set(names) & there.keys()) for name, names in parts.items()}


def _missing_error(missing: dict[str, list[str]], files: dict[str, str | PathLike[str]]) -> ValueError:
    """Return the error for names in lists that have no case."""
    n, (name, absent) = sum(map(len, missing.values())), next(iter(missing.items()))
    names, have, them = ("names", "have", "them") if n > 1 else ("name", "has", "it")
    return ValueError(
        f"{n} {names} in the lists {have} no case, such as {absent[0]} in {display_name(files[name])}; "
        f"prepare {them}, or take {them} out."
    )
