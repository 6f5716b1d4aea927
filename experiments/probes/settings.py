"""How a masked cycle should be used: samplers by cost, poolings, options, widths of the strip."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evidence import MODALITIES, PAIRS, Evidence, Job, in_parallel
from probes.setting_scores import AVERAGED, DIVIDED, POOLS, SHIPPED, scorer

from mmccd.benchmark.dataset import ScoredSubject, load_subject, store_paths
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import fingerprint, load_detector
from mmccd.masked_diffusion import with_config
from mmccd.masked_translation import Sampler
from mmccd.schemas import checked
from mmccd.summary import summarise


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        validation: The phantoms: gliomas that are scored, and healthy subjects for the means.
        weights: Names of detectors; the first is used with all samplers.
        samplers: Fields of `Sampler` by name of the setting.
        base: The setting that the others are compared with.
        pairs: Settings that are tried with all pairs, and of which one is chosen for each.
        pooled: Settings whose poolings are compared.
        widths: Pixels hidden across; 0: nothing is hidden, and the whole slice is compared.
        margin: How far the mean AP of the chosen setting may lie below that of the best one.
        places: First and last axial place.
    """

    validation: dict[str, Any]
    weights: list[str]
    samplers: dict[str, dict[str, Any]]
    base: str
    pairs: list[str]
    pooled: list[str]
    widths: list[int]
    margin: float
    places: tuple[int, int] = (70, 89)


def network_fingerprint(name: str) -> str:
    """Fingerprint of the networks, whatever sampler and threshold they come with."""
    d = load_detector(name)
    if hasattr(d.config, "sampler"):
        d = with_config(d, sampler=Sampler())
    d.calibration = None
    return fingerprint(d)


@dataclass(frozen=True)
class Task:
    """One setting of one detector on one subject."""

    weights: str
    setting: str
    id: str
    sampler: Sampler | None = None

    @property
    def key(self) -> str:
        return f"{self.weights} | {self.setting} | {self.id}"


@lru_cache(maxsize=64)
def subject(plan: Evidence, id: str) -> ScoredSubject:
    """A subject of the validation, with its slice."""
    return load_subject(plan, SliceStore(store_paths(plan)["test"]), id)


def measure(plan: Evidence, task: Task) -> dict[str, dict] | None:
    """The scores of a task by pooling; None for a subject without lesion at the places that count."""
    s = subject(plan, task.id)
    return scorer(plan, task.weights, task.setting, task.sampler)(s.batch) if s.lesion_cm2 else None


# all of them


def pairs_of(weights: str) -> list[str]:
    """The names of all six pairs of a method."""
    return [f"{weights.rsplit('-', 2)[0]}-{x}-{y}" for x, y in PAIRS]


def tasks(o: Options, ids: list[str]) -> list[Task]:
    """All samplers with the first weights, some with all pairs; options and widths with all weights."""
    samplers = {k: Sampler(**v) for k, v in o.samplers.items()}
    wanted = [(o.weights[0], s, samplers[s]) for s in sorted(samplers, key=lambda s: samplers[s].steps)]
    wanted += [(w, s, samplers[s]) for w in pairs_of(o.weights[0]) if w != o.weights[0] for s in o.pairs]
    for w in o.weights:
        c = load_detector(w).config
        masked = hasattr(c, "sampler")
        wanted += [(w, s, None) for s in (SHIPPED, DIVIDED, *([AVERAGED] if masked and c.diffusion else []))]
        wanted += [(w, f"width {v}", Sampler(width=v) if v else None) for v in o.widths if masked]
    return [Task(w, s, id, sampler) for w, s, sampler in wanted for id in ids]


def measure_all(o: Options, plan: Evidence, job: Job) -> dict[tuple[str, str], list[dict]]:
    """The rows of every (weights, setting), in the order of subjects; an interrupted run goes on from its file."""
    store = SliceStore(store_paths(plan)["test"])
    todo = tasks(o, [id for id in store.ids if "glioma" in id])
    prints = {w: network_fingerprint(w) for w in {t.weights for t in todo}}
    file, done = Path(plan.out) / "rows.jsonl", {}
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.endswith("}") and (row := json.loads(line))["fingerprint"] == prints.get(row["weights"]):
            done[row["key"]] = row["found"]
    rest = [t for t in todo if t.key not in done]
    with file.open("a") as out:
        for k, (t, found) in enumerate(zip(rest, in_parallel(measure, [(plan, t) for t in rest], job.jobs))):
            done[t.key] = found
            row = {"key": t.key, "weights": t.weights, "fingerprint": prints[t.weights], "found": found}
            print(json.dumps(row), file=out, flush=True)
            if k % 20 == 0:
                job.say(f"{k} of {len(rest)}: {t.weights}, {t.setting}")
    rows: dict[tuple[str, str], list[dict]] = {}
    for t in todo:
        if found := done[t.key]:
            rows.setdefault((t.weights, t.setting), []).append({"id": t.id, **found})
    return rows


def line(rows: list[dict], base: list[dict], pooling: str = "mean", other: str = "mean") -> dict[str, Any]:
    """A setting in numbers: AP, AP less that of `base` by subject, evaluations, mean map in the lesion and the rest."""
    own, rival = [r[pooling] for r in rows], [r[other] for r in base]
    gain = [{"ap": a["ap"] - b["ap"]} for a, b in zip(own, rival, strict=True)]
    means = {c: summarise(own, c)["mean"] for c in ("evaluations", "lesion", "rest")}
    return {"ap": summarise(own, "ap"), "difference": summarise(gain, "ap"), **means}


def cheapest(lines: dict[str, dict], margin: float) -> str:
    """The setting with fewest evaluations whose mean AP is at most `margin` below the best; of two, the better one."""
    best = max(v["ap"]["mean"] for v in lines.values())
    able = [k for k, v in lines.items() if v["ap"]["mean"] >= best - margin]
    return min(able, key=lambda k: (round(lines[k]["evaluations"]), -lines[k]["ap"]["mean"]))


def summary(rows: dict, o: Options) -> dict[str, Any]:
    """What follows from the rows."""
    first = o.weights[0]
    pairs = {w: {s: line(rows[w, s], rows[w, o.base]) for s in o.pairs} for w in pairs_of(first)}
    options = {
        w: {s: line(rows[w, s], rows[w, SHIPPED]) for s in (SHIPPED, DIVIDED, AVERAGED) if (w, s) in rows}
        for w in o.weights
    }
    widths = {
        w: {str(v): line(rows[w, f"width {v}"], rows[w, "width 8"]) for v in o.widths}
        for w in o.weights
        if (w, "width 8") in rows
    }
    return {
        "samplers": {s: line(rows[first, s], rows[first, o.base]) for s in o.samplers},
        "pairs": pairs,
        "chosen": {w: cheapest(v, o.margin) for w, v in pairs.items()},
        "pooling": {s: {p: line(rows[first, s], rows[first, s], p) for p in POOLS} for s in o.pooled},
        "options": options,
        "widths": widths,
    }


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure all settings and choose a sampler for each pair by the rule."""
    o = checked(options, Options, "the recipe", "correct that option")
    phantoms = Phantoms(**o.validation)
    folder, places = job.work / f"phantoms-{phantoms.seed}", tuple(o.places)
    plan = Evidence(folder, test=phantoms, calibrate=phantoms, healthy_slices=5, places=places)
    r, place = plan.recipe, store_paths(plan)["test"]
    prepare(phantoms, place, size=r.scored, slices=r.test_places, modalities=list(MODALITIES), jobs=job.jobs)
    rows = measure_all(o, plan, job)
    return {
        "seed": phantoms.seed,
        "rule": f"by pair, fewest evaluations with a mean AP at most {o.margin} below that of the best setting",
        "weights": {w: network_fingerprint(w) for w in o.weights},
        "patients": [r["id"] for r in rows[o.weights[0], o.base]],
        **summary(rows, o),
    }
