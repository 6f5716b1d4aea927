""""""

import hashlib
import re
from pathlib import Path

import numpy as np

from mmccd.errors import display_name, file_error


def subject_of(
    id: str,  # name of a case
) -> str:  # name of the person
    "Whose case is it? Twins, visits and sessions belong to one subject."
    id = id.removesuffix("_healthy_twin")
    if visit := re.fullmatch(r"(BraTS(?:-[A-Za-z]+)+-\d+)-\d+", id, re.I):
        return visit[1]
    return re.sub(r"_ses-[^_]+", "", id)


def part_size(
    share,  # share of the subjects in [0, 1), or how many (an integer from 1)
    n: int,  # subjects
) -> int:  # at least one, unless `share` is 0
    "How many subjects is that?"
    if not 0 <= share < np.inf or (share >= 1 and share != int(share)):
        raise ValueError(f"A part of the subjects must be a share from 0 to 1 or a whole number, got {share}.")
    return int(share) if share >= 1 else max(1, round(share * n)) if share else 0


def split_subjects(
    ids,  # names of cases, in any order; repeats do no harm
    val=0.1,  # share of the subjects for validation, or how many
    test=0,  # for test
    seed: int = 0,  # another seed, another split
) -> dict:  # {"train": ids, "val": ids, "test": ids}, each sorted
    "Split by subject; the same names and seed give the same parts."
    ids = sorted(set(ids))
    subjects = sorted({subject_of(i) for i in ids})

    def ticket(s):
        return hashlib.sha256(f"{seed}/{s}".encode()).digest()

    n_val, n_test = (part_size(share, len(subjects)) for share in (val, test))
    if n_val + n_test >= max(len(subjects), 1):
        raise ValueError(
            f"Cannot split {len(subjects)} subject{'s' * (len(subjects) != 1)}: {n_val} for validation and {n_test} for test leave none to train on; prepare more, or ask for smaller parts."
        )
    order = sorted(subjects, key=ticket)
    part = {s: "val" if k < n_val else "test" if k < n_val + n_test else "train" for k, s in enumerate(order)}
    return {name: [i for i in ids if part[subject_of(i)] == name] for name in ("train", "val", "test")}


def read_list(
    path,  # text file with a name a line; blank lines and lines that start with # do not count
) -> list[str]:  # names, in the file's order
    "Read the names of subjects."
    if not Path(path).is_file():
        raise file_error(path, "there is no such file", "check the path of the list")
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(path, "it is not plain text", "save it as UTF-8, a name a line") from error
    names = [line.strip() for line in text.splitlines()]
    names = [n for n in names if n and not n.startswith("#")]
    if not names:
        raise file_error(path, "it holds no name", "write a name a line")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise file_error(path, f"{twice[0]} is in it twice", "remove one")
    return names


def split_from_lists(
    ids,  # names of the cases there are
    partial=False,  # names in a list without a case: False refuses, True leaves them out
    **files,  # list file by part: train="train.txt", val=..., test=...
) -> dict:  # ids by part, sorted
    "Split as the lists say; a person in two lists is refused."
    parts, there = {name: read_list(path) for name, path in files.items()}, set(ids)
    missing, owner = {}, {}
    for name, names in parts.items():
        for i in names:
            first = owner.setdefault(subject_of(i), name)
            if first != name:
                raise ValueError(
                    f"{subject_of(i)} is in the list for {first} and in that for {name}: {display_name(files[first])}, {display_name(files[name])}; remove it from one."
                )
        if absent := sorted(set(names) - there):
            missing[name] = absent
    if missing and not partial:
        n, (name, absent) = sum(map(len, missing.values())), next(iter(missing.items()))
        raise ValueError(
            f"{n} name{'s' * (n > 1)} in the lists {'have' if n > 1 else 'has'} no case, such as {absent[0]} in {display_name(files[name])}; prepare {'them' if n > 1 else 'it'}, or take {'them' if n > 1 else 'it'} out."
        )
    return {name: sorted(set(names) & there) for name, names in parts.items()}
