"""Who may be in training, validation and test: splits by person, and lists of names."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np

from mmccd.errors import display_name, file_error


def subject_of(id: str) -> str:
    """Return the name of the person a case belongs to; twins, visits and sessions are one person's."""
    id = id.removesuffix("_healthy_twin")
    if visit := re.fullmatch(r"(BraTS(?:-[A-Za-z]+)+-\d+)-\d+", id, re.I):
        return visit[1]
    return re.sub(r"_ses-[^_]+", "", id)


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


def split_subjects(ids: Iterable[str], val: float = 0.1, test: float = 0, seed: int = 0) -> dict[str, list[str]]:
    """Split cases by subject; the same names and seed give the same parts.

    Args:
        ids: names of cases, in any order; repeats do no harm.
        val: share of the subjects for validation, or how many.
        test: the same for test.
        seed: another seed, another split.

    Returns:
        Names by part: "train", "val", "test", each sorted.

    Raises:
        ValueError: if nobody is left to train on.
    """
    ids = sorted(set(ids))
    subjects = sorted({subject_of(i) for i in ids})
    n_val, n_test = (part_size(share, len(subjects)) for share in (val, test))
    if n_val + n_test >= max(len(subjects), 1):
        these = f"{len(subjects)} subject{'s' * (len(subjects) != 1)}"
        raise ValueError(
            f"Cannot split {these}: {n_val} for validation and {n_test} for test leave none to train on; "
            "prepare more, or ask for smaller parts."
        )
    order = sorted(subjects, key=lambda s: hashlib.sha256(f"{seed}/{s}".encode()).digest())
    part = {s: "val" if k < n_val else "test" if k < n_val + n_test else "train" for k, s in enumerate(order)}
    return {name: [i for i in ids if part[subject_of(i)] == name] for name in ("train", "val", "test")}


def read_list(path: str | PathLike[str]) -> list[str]:
    """Read names, one a line, in the file's order; blank lines and lines that start with # do not count.

    Raises:
        ValueError: if there is no such file, it is no text, holds no name, or a name twice.
    """
    if not Path(path).is_file():
        raise file_error(path, "there is no such file", "check the path of the list")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, "it is not plain text", "save it as UTF-8, a name a line") from error
    lines = [line.strip() for line in text.splitlines()]
    names = [n for n in lines if n and not n.startswith("#")]
    if not names:
        raise file_error(path, "it holds no name", "write a name a line")
    twice = sorted(n for n, k in Counter(names).items() if k > 1)
    if twice:
        raise file_error(path, f"{twice[0]} is in it twice", "remove one")
    return names


def split_from_lists(ids: Iterable[str], partial: bool = False, **files: str | PathLike[str]) -> dict[str, list[str]]:
    """Split cases as list files say.

    Args:
        ids: names of the cases there are.
        partial: leave out names in a list that have no case, instead of refusing them.
        **files: list file by part: train="train.txt", val=..., test=...

    Returns:
        Names by part, sorted.

    Raises:
        ValueError: if a person is in two lists, or a name has no case.
    """
    parts, there = {name: read_list(path) for name, path in files.items()}, set(ids)
    missing: dict[str, list[str]] = {}
    owner: dict[str, str] = {}
    for name, names in parts.items():
        for i in names:
            first = owner.setdefault(subject_of(i), name)
            if first != name:
                both = f"{display_name(files[first])}, {display_name(files[name])}"
                raise ValueError(
                    f"{subject_of(i)} is in the list for {first} and in that for {name}: {both}; remove it from one."
                )
        if absent := sorted(set(names) - there):
            missing[name] = absent
    if missing and not partial:
        raise _missing_error(missing, files)
    return {name: sorted(set(names) & there) for name, names in parts.items()}


def _missing_error(missing: dict[str, list[str]], files: dict[str, str | PathLike[str]]) -> ValueError:
    """Return the error for names in lists that have no case."""
    n, (name, absent) = sum(map(len, missing.values())), next(iter(missing.items()))
    names, have, them = ("names", "have", "them") if n > 1 else ("name", "has", "it")
    return ValueError(
        f"{n} {names} in the lists {have} no case, such as {absent[0]} in {display_name(files[name])}; "
        f"prepare {them}, or take {them} out."
    )
