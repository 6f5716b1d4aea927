"""Sets of cases that a result is about: phantoms, and real scans of the user's, which stay where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evidence import Job

from mmccd.cases.case import Case
from mmccd.cases.phantoms import Phantoms, phantom_places
from mmccd.phantom import make_phantom

ROOT = "MMCCD_SCANS"
"""The variable of the environment that names the folder with real scans; without it there are phantoms only."""


@dataclass(frozen=True)
class ScanSet:
    """Some cases of one kind.

    Attributes:
        title: For tables.
        phantoms: Arguments of `Phantoms`; empty for real scans.
        folder: Patterns of the cases' folders below the root of the scans, with a space between two.
        only: Names of those folders, where not all count.
        source: Where they come from, and their terms.
        labels: Who drew the lesions: "expert", "automatic", "made" of phantoms, "none" of healthy people.
        modalities: That are read, where they are there.
    """

    title: str
    phantoms: dict[str, Any] = field(default_factory=dict)
    folder: str = ""
    only: list[str] = field(default_factory=list)
    source: str = ""
    labels: str = "expert"
    modalities: list[str] = field(default_factory=lambda: ["flair", "t1", "t2"])

    def paths(self) -> list[Path]:
        """The folders of real cases; none where the root is not named."""
        root = os.environ.get(ROOT)
        patterns = self.folder.split() if root else []
        found = [p for each in patterns for p in sorted(Path(root or "").glob(each)) if p.is_dir()]
        return [p for p in found if not self.only or p.name in self.only]

    def ids(self) -> list[str]:
        """Names of all cases, without reading one."""
        return [id for id, _ in Phantoms(**self.phantoms).tasks()] if self.phantoms else [p.name for p in self.paths()]

    def load(self, id: str) -> Case:
        """One case with what it has of the modalities."""
        if self.phantoms:
            made = Phantoms(**self.phantoms)
            how = dict(made.tasks())[id]
            places = phantom_places(made.how, how["index"], None)  # thinned, where `every` says so
            phantom = make_phantom(how["kind"], made.seed, how["index"], places, False, tuple(made.varied))
            return Case.from_phantom(phantom, modalities=self.modalities)
        case = Case.load(next(p for p in self.paths() if p.name == id))
        case.volumes = {m: v for m, v in case.volumes.items() if m in self.modalities}
        return case


def all_cases(sets: dict[str, ScanSet], job: Job) -> Iterator[tuple[str, str]]:
    """Set and id of every case; says which sets are left out."""
    for name, s in sets.items():
        ids = s.ids()
        if not ids:
            job.say(f"{name}: no scans; name the folder that holds {s.folder} by {ROOT}")
        yield from ((name, id) for id in ids)


def describe_sets(sets: dict[str, ScanSet]) -> dict[str, dict[str, Any]]:
    """What a result says of each set that has cases."""
    return {
        name: {"title": s.title, "n": len(s.ids()), "source": s.source or "phantoms", "labels": s.labels}
        for name, s in sets.items()
        if s.ids()
    }
