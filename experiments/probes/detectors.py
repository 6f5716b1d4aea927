"""Packaged detectors on the phantoms of the evidence, by subject: scores, false alarms, and what each recipe adds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evidence import (
    PAIRS,
    Evidence,
    Job,
    Row,
    describe_evidence,
    evaluate,
    load_evaluation_set,
    make_rows,
    open_evidence,
)
from probes import derived, lesion, taken, translation

from mmccd.files import round_floats
from mmccd.schemas import checked
from mmccd.weights.hub import WEIGHTS


@dataclass(frozen=True)
class Options:
    """What a recipe of this probe says.

    Attributes:
        evidence: Arguments of `open_evidence`: subjects, calibration, how many slices of each.
        single: Titles by method that takes one modality.
        paired: Titles by method that goes to a target and back.
        pairs: (input, target) of all that are measured.
        runs: Folders, inside the folder of the job, of the runs that "two networks" are taken from, by pair.
        taken: Other results by method whose rows stand beside, not measured again.
        steps: What is added to the scores, in this order, and the arguments of each.
    """

    evidence: dict[str, Any]
    single: dict[str, str] = field(default_factory=dict)
    paired: dict[str, str] = field(default_factory=dict)
    pairs: tuple = PAIRS
    runs: dict[str, str] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a step is given: the result so far, the rows, their network evaluations for a slice, and the subjects."""

    result: dict[str, Any]
    rows: list[Row]
    costs: dict[str, float]
    plan: Evidence
    job: Job
    options: Options


STEPS: dict[str, Callable[..., Any]] = {
    "paired": derived.paired,
    "by_size": derived.by_size,
    "evaluations": derived.evaluations,
    "networks": derived.networks,
    "translation": translation.translation,
    "depths": lesion.depths,
    "copies": lesion.copies,
    "tissues": lesion.tissues,
}


def training_records(rows: list[Row]) -> dict[str, dict]:
    """By method or row: steps and samples of its training, and the sampler of a masked detector."""
    records: dict[str, dict] = {}
    for row in rows:
        name = "cycle" if row.method == "one-way" else row.method
        log = WEIGHTS / name / "log.csv"
        if row.run:
            records[row.key] = {"trained": run_record(Path(row.run))}
        elif log.exists() and row.method not in records:
            names, *lines = log.read_text().split()
            last = dict(zip(names.split(","), lines[-1].split(",")))
            records[row.method] = {"trained": {"steps": int(last["step"]), "samples": int(last["samples"])}}
            if hasattr(config := row.load().config, "sampler"):
                records[row.method]["sampler"] = asdict(config.sampler)
    return records


def run_record(run: Path) -> dict[str, Any]:
    """What the networks of a run of training have seen."""
    record = json.loads((run / "train.json").read_text())
    about, last = record["about"], record["result"]
    seen = {
        "status": record["status"],
        "data": about["data"]["what"],
        "steps": last["step"],
        "samples": last["samples"],
    }
    return seen | {k: about["training"][k] for k in ("lr", "batch_size", "seed")}


def check_runs(runs: dict[str, str], subjects: list[str]) -> None:
    """Refuse runs that are missing, unfinished, or have learned from a subject that is scored."""
    for run in map(Path, runs.values()):
        if not (run / "train.json").exists():
            raise ValueError(f"there is no training in {run}: run the commands under `before` of the recipe first")
        record = json.loads((run / "train.json").read_text())
        about = record["about"]
        if record["status"] != "done":
            raise ValueError(f"the training in {run} is not done: go on with it by --resume")
        if both := {*about["data"]["ids"], *about["validation"]["ids"]} & set(subjects):
            raise ValueError(f"the networks in {run} have learned from {min(both)}, a subject that is scored")


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure the rows of a recipe and do its further steps."""
    o = checked(options, Options, "the recipe", "correct that option")
    plan = open_evidence(job, **o.evidence)
    runs = {pair: str(job.work / folder) for pair, folder in o.runs.items()}
    check_runs(runs, [s.id for s in load_evaluation_set(plan).subjects])
    rows = make_rows(o.single, o.paired, o.pairs, runs)
    about = describe_evidence(plan)
    scores, costs = evaluate(plan, rows, job, training_records(rows))
    result = round_floats(about | scores)
    if o.taken:
        result, costs = taken.add_rows(result, costs, rows, o.taken)
    for step, arguments in o.steps.items():
        measured = Measured(result, rows, costs, plan, job, o)
        result[step] = round_floats(STEPS[step](measured, **arguments))
    return result
