"""Does training on heads that differ more than people do help on scanners that nobody here has seen?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evidence import Job, in_parallel
from probes.ensemble import chosen_slices
from probes.scans import ScanSet, all_cases, describe_sets
from train_weights import run_command, variant

from mmccd.detection.maps import map_slices
from mmccd.detector import fingerprint, load_detector, with_config
from mmccd.error_map import ErrorMapConfig
from mmccd.schemas import checked
from mmccd.scoring import average_precision
from mmccd.summary import summarise
from mmccd.weights.hub import WEIGHTS


@dataclass(frozen=True)
class Trial:
    """One training.

    Attributes:
        varied: What differs between its heads by more than usual; empty: nothing.
        train: Options of `mmccd train` in place of those that all have.
    """

    varied: str = ""
    train: str = ""


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        sets: Validation sets by name; those without cases here are left out.
        store: Options of `mmccd prepare phantom` that all trainings have.
        train: Options of `mmccd train` that all have.
        options: More of them by method.
        variants: By method, which of its variants are scored.
        trials: By name, the method first.
        packaged: Methods whose packaged weights are scored beside them.
        window: Pixels of the network over which errors are averaged.
    """

    sets: dict[str, ScanSet]
    store: str
    train: str
    options: dict[str, str]
    variants: dict[str, list[str]]
    trials: dict[str, dict[str, Any]]
    packaged: list[str]
    window: int


def method_of(name: str) -> str:
    """The method of a trial or of packaged weights, as `mmccd train` calls it: its name begins with it."""
    return name.split(",")[0]


def store_of(trial: Trial, work: Path) -> Path:
    """Where its training heads are."""
    return work / f"heads-{trial.varied.replace(',', '-') or 'usual'}.zarr"


def train(trial: Trial, name: str, o: Options, work: Path) -> Path:
    """The folder of the finished run, trained now or before."""
    torch.set_num_threads(1)
    run, store = work / name, store_of(trial, work)
    record = run / "train.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("status") != "done":
        options = " ".join([o.options[method_of(name)], o.train, trial.train])  # the last of an option counts
        run_command(f"mmccd train {method_of(name)} '{store}' {options} --out '{run}'" + " --resume" * bool(known))
    return run


def score_case(s: ScanSet, id: str, folders: dict[str, Path], o: Options) -> dict[str, float]:
    """Average precision in the protocol slice of one case, by detector and variant."""
    torch.set_num_threads(1)
    case = s.load(id)
    _, best = chosen_slices(case, 1)
    brain, truth = case.brain_slices([best]), case.lesion_slices([best])
    scores = {}
    for name, folder in folders.items():
        for v in o.variants[method_of(name)]:
            input = v.split("-")[0]
            if input in case.volumes:
                d = variant(load_detector(folder), v)
                d = with_config(d, error=ErrorMapConfig(window=o.window))
                made = map_slices(d, case.slices(input, [best]), brain, torch.Generator().manual_seed(0))
                scores[f"{name}: {v}"] = average_precision(made[brain].numpy(), truth[brain].numpy())
    return scores


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Train what is not trained yet, and score all of it."""
    o = checked(options, Options, "the recipe", "correct that option")
    trials = {n: checked(t, Trial, f"the trial {n}", "correct that option") for n, t in o.trials.items()}
    work = job.work / "transfer"
    for trial in {store_of(t, work): t for t in trials.values()}.values():
        varied = f" --varied {trial.varied}" * bool(trial.varied)
        run_command(f"mmccd prepare phantom '{store_of(trial, work)}' {o.store}{varied} --jobs {job.jobs}")
    tasks = [(t, name, o, work) for name, t in trials.items()]
    folders = {f"{m}, packaged": WEIGHTS / m for m in o.packaged}
    for (_, name, *_), folder in zip(tasks, in_parallel(train, tasks, job.jobs)):
        job.say(f"{name} is trained")
        folders[name] = folder
    todo = list(all_cases(o.sets, job))
    found = in_parallel(score_case, [(o.sets[s], id, folders, o) for s, id in todo], job.jobs)
    cases: dict[str, list[dict[str, float]]] = {}
    for (s, id), scores in zip(todo, found):
        job.say(f"{s}: {id}")
        cases.setdefault(s, []).append(scores)
    table = {s: {k: summarise(each, k) for k in each[0]} for s, each in cases.items()}
    about = {n: asdict(t) | {"validation": last_loss(folders[n])} for n, t in trials.items()}
    weights = {
        name: fingerprint(load_detector(name)) for m in o.packaged for name in (f"{m}-{v}" for v in o.variants[m])
    }
    return {"sets": describe_sets(o.sets), "trials": about, "weights": weights, "ap": table}


def last_loss(run: Path) -> float:
    """The last loss of a training on heads it did not learn from."""
    rows = np.genfromtxt(Path(run) / "log.csv", delimiter=",", names=True)
    known = rows["val_loss"][~np.isnan(rows["val_loss"])]
    return float(known[-1])
