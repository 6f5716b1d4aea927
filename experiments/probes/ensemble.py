"""Which maps of one head should be added up: every sum of a few of them, on phantoms and patients set aside for it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import Job, in_parallel
from probes.scans import ScanSet, all_cases, describe_sets

from mmccd.anatomy import MODALITIES
from mmccd.cases.case import Case
from mmccd.cases.grid import protocol_slices
from mmccd.detection.maps import map_slices, region_for, translation_maps
from mmccd.detector import fingerprint
from mmccd.ensemble import TRANSLATE, Ensemble
from mmccd.schemas import checked
from mmccd.scoring import average_precision


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        sets: Validation sets by name; those without cases here are left out.
        pools: By choice, such as "flair+t2", the maps that may be added.
        sets_of: By choice, the sets that decide.
        most: How many maps a sum has at most.
        power: Of the evidence.
        powers: Others, tried with the winner.
        every: Distance of the slices over which a map's median is taken.
    """

    sets: dict[str, ScanSet]
    pools: dict[str, list[str]]
    sets_of: dict[str, list[str]]
    most: int
    power: float
    powers: list[float]
    every: int


def chosen_slices(case: Case, every: int) -> tuple[list[int], int]:
    """Slices whose maps are made, and among them that of the protocol: with most lesion, at 70 to 89 of BraTS' grid."""
    shape = case.brain.shape
    whole = [k for k in range(shape[2]) if case.brain[:, :, k].sum() > 0.15 * case.brain.sum((0, 1)).max()]
    lesion = case.lesion if case.lesion is not None else case.brain
    places = [k for k in protocol_slices(shape, case.affine) if k in whole]
    best = max(places, key=lambda k: (lesion & case.brain)[:, :, k].sum())
    return sorted({*whole[::every], best}), best


def make_map(case: Case, ensemble: Ensemble, name: str, slices: list[int]) -> torch.Tensor:
    """The map of one detector on some slices (n 1 h w)."""
    if name.startswith(TRANSLATE):
        return translation_maps(case, ensemble.member(name), index=slices)
    detector = ensemble.member(name)
    x, brain, region = case.slices(detector.config.input, slices), case.brain_slices(slices), region_for(detector, case)
    made = (
        map_slices(detector, a, b, torch.Generator().manual_seed(0), region)
        for a, b in zip(x.split(16), brain.split(16))
    )
    return torch.cat(list(made))


def needs(name: str) -> set[str]:
    """The modalities that a map is made of."""
    modalities = [m for m in name.split("-") if m in MODALITIES]
    return set(modalities) if name.startswith(TRANSLATE) else {modalities[0]}


def measure(s: ScanSet, id: str, names: list[str], every: int, file: Path) -> Path:
    """Make the maps of one case, those that were not made before, and keep them inside the brain."""
    torch.set_num_threads(1)
    ensemble = Ensemble()
    wanted = {n: fingerprint(ensemble.member(n)) for n in names}
    old = dict(np.load(file)) if file.exists() else {}
    before = json.loads(str(old.get("about", "{}")))
    if before == {"every": every, "maps": wanted}:
        return file
    case = s.load(id)
    slices, best = chosen_slices(case, every)
    brain = case.brain_slices(slices)
    protocol = np.repeat(slices, brain.flatten(1).sum(1)) == best
    kept: dict[str, Any] = {"about": json.dumps({"every": every, "maps": wanted}), "protocol": protocol}
    if case.lesion is not None:
        kept["lesion"] = case.lesion_slices(slices)[brain].numpy()
    known = before.get("maps", {}) if before.get("every") == every else {}
    for name in (n for n in names if needs(n) <= case.volumes.keys()):
        same = name in old and known.get(name) == wanted[name]
        kept[name] = old[name] if same else make_map(case, ensemble, name, slices)[brain].numpy().astype(np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_suffix(".part"), "wb") as part:
        np.savez(part, **kept)
    file.with_suffix(".part").replace(file)
    return file


@dataclass(frozen=True)
class Scored:
    """A case in its protocol slice: ratios of each map to its median in the head, (n,) by name, and the truth (n,)."""

    ratios: dict[str, np.ndarray]
    truth: np.ndarray

    @classmethod
    def read(cls, file: Path) -> Scored:
        """From what `measure` kept."""
        kept = dict(np.load(file))
        at = kept["protocol"]
        names = kept.keys() - {"about", "protocol", "lesion"}
        ratios = {n: kept[n][at] / max(float(np.median(kept[n])), 1e-6) for n in names}
        return cls(ratios, kept["lesion"][at] if "lesion" in kept else np.zeros(0, bool))

    def precision(self, names: tuple[str, ...], power: float) -> float:
        """Average precision of a sum."""
        return average_precision(sum(self.ratios[n] ** power for n in names), self.truth)


def sums(pool: list[str], choice: str, most: int) -> Iterator[tuple[str, ...]]:
    """Every sum of a few maps that needs all modalities of the choice and no others."""
    for k in range(1, most + 1):
        for names in itertools.combinations(pool, k):
            if set().union(*map(needs, names)) == set(choice.split("+")):
                yield names


def score(cases: dict[str, list[Scored]], made: set[str], names: tuple[str, ...], power: float) -> dict[str, Any]:
    """Mean average precision of a sum by set, and the mean of phantoms and patients, each half."""
    ap = {s: float(np.mean([c.precision(names, power) for c in found])) for s, found in cases.items()}
    halves = [[v for s, v in ap.items() if (s in made) == half] for half in (True, False)]
    mean = float(np.mean([np.mean(half) for half in halves if half]))
    return {"maps": list(names), "power": power, "ap": ap, "mean": mean}


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Score every sum on every set, and name the best for each choice."""
    o = checked(options, Options, "the recipe", "correct that option")
    names = sorted({n for pool in o.pools.values() for n in pool})
    todo = list(all_cases(o.sets, job))
    tasks = [(o.sets[s], id, names, o.every, job.work / "ensemble" / s / f"{id}.npz") for s, id in todo]
    cases: dict[str, list[Scored]] = {}
    for (s, id), file in zip(todo, in_parallel(measure, tasks, job.jobs)):
        job.say(f"{s}: {id}")
        cases.setdefault(s, []).append(Scored.read(file))
    made = {name for name, s in o.sets.items() if s.phantoms}
    trials: dict[str, list[dict[str, Any]]] = {}
    for choice, pool in o.pools.items():
        fit = {
            s: with_lesion for s in o.sets_of[choice] if (with_lesion := [c for c in cases.get(s, []) if c.truth.any()])
        }
        found = [score(fit, made, names, o.power) for names in sums(pool, choice, o.most)]
        found.sort(key=lambda row: -row["mean"])
        trials[choice] = found + [score(fit, made, tuple(found[0]["maps"]), p) for p in o.powers]
        job.say(f"{choice}: {' + '.join(found[0]['maps'])}, {found[0]['mean']:.3f}")
    return {"sets": describe_sets(o.sets), "trials": trials}
