"""The result of a benchmark: everything that was found, with what it takes to find it again, ready for JSON."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmccd import __version__
from mmccd.benchmark.dataset import load_evaluation_set, load_training_data, store_paths
from mmccd.benchmark.measure import pictured
from mmccd.benchmark.networks import entries, run_folder
from mmccd.benchmark.plan import Plan, stopping_rule
from mmccd.cases.store import SliceStore
from mmccd.detector import fingerprint, load_detector
from mmccd.errors import file_error
from mmccd.files import round_floats
from mmccd.registry import METHODS
from mmccd.summary import paired_bootstrap
from mmccd.training.record import read_record
from mmccd.training_loop import converged


def read_curve(folder: Path, validated: bool = True) -> dict[str, Any]:
    """Training and validation loss of a run, as `columns` and `rows`; None where the log has no number.

    Args:
        folder: Of the run.
        validated: Only the steps after which it was validated.

    Raises:
        ValueError: The log is damaged.
    """
    try:
        return parse_curve((folder / "log.csv").read_text(encoding="utf-8"), validated)
    except (ValueError, KeyError, OSError) as error:
        todo = f"delete {folder} to train it again, or put back a good copy"
        raise file_error(folder / "log.csv", "it is damaged", todo) from error


def parse_curve(text: str, validated: bool) -> dict[str, Any]:
    """The log of a run as `read_curve` returns it."""
    names, *lines = text.split()
    rows = [dict(zip(names.split(","), line.split(","))) for line in lines]

    def number(text: str) -> float | None:
        return float(text) if text else None

    return {
        "columns": ["step", "samples", "loss", "val_loss"],
        "rows": [
            [int(r["step"]), int(r["samples"]), number(r["loss"]), number(r["val_loss"])]
            for r in rows
            if r["val_loss"] or not validated
        ],
    }


def describe_network(plan: Plan, method: str) -> dict[str, Any]:
    """What a trained method is, what it was trained on and for how long, and whether it met the stopping rule."""
    folder = run_folder(plan, method)
    record, detector, curve = read_record(folder), load_detector(folder), read_curve(folder)
    last, losses = record["result"], [row[3] for row in curve["rows"]]
    return {
        "name": METHODS[method].title,
        "parameters": sum(p.numel() for p in detector.parameters()),
        "trained": sum(p.numel() for p in detector.parameters() if p.requires_grad),
        "steps": last["step"],
        "samples": last["samples"],
        "slices": record["about"]["data"]["slices"],
        "converged": converged(losses, plan.training) if plan.training.patience else None,
        "val_loss": last["val_loss"],
        "fingerprint": fingerprint(detector),
        "curve": curve,
        "seconds": last["seconds"],
        "device": record["device"],
        "date": record["date"],
    }


def compare_rows(scores: Mapping[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """Differences between rows, subject by subject, with intervals.

    Each row is compared with those of the methods that the registry names, of the same input (and target), shipped
    weights with shipped ones.

    Args:
        scores: Rows by key, as `measure` gives them.
        kind: Of subject.

    Returns:
        `"a - b"` -> score -> mean, low, high and n of a less b.
    """

    def column(e: Mapping[str, Any], score: str) -> list[float | None]:
        i = e["kinds"][kind]["columns"].index(score)
        return [row[i] for row in e["kinds"][kind]["rows"]]

    def fits(other: Mapping[str, Any], e: Mapping[str, Any], method: str) -> bool:
        alike = other["shipped"] == e["shipped"] or not METHODS[method].trainable
        return (
            other["method"] == method
            and other["input"] == e["input"]
            and other["target"] in (None, e["target"])
            and alike
        )

    found = {}
    for key, e in scores.items():
        for method in METHODS[e["method"]].compared_with:
            rival = next((k for k, other in scores.items() if fits(other, e, method)), None)
            if rival:
                found[f"{key} - {rival}"] = {
                    s: paired_bootstrap(column(e, s), column(scores[rival], s)) for s in ("ap", "dice", "dice_oracle")
                }
    return found


PROTOCOL = (
    "Slice protocol: of each subject's slices at places {first} to {last} the one with most lesion inside the brain, "
    "all its brain pixels, at {scored} pixels a side; networks see {size}. "
    "dice and fpr: threshold calibrated to {fpr:.0%} false positives on healthy slices of other subjects. "
    "_oracle: threshold fitted to the labels of the subjects of that kind, the same for all of them. "
    "Intervals: 95 % percentile bootstrap over subjects. "
    "healthy: share of each healthy brain above the calibrated threshold. ASSD in mm."
)


def describe_benchmark(plan: Plan, command: str) -> dict[str, Any]:
    """How the result was made."""
    r = plan.recipe
    size = load_training_data(plan)[0].recipe["size"] if plan.trained else r.size
    scored = SliceStore(store_paths(plan)["test"]).recipe["size"]
    first, last = r.test_places[0], r.test_places[-1]
    return {
        "command": command,
        "preset": plan.preset,
        "seed": plan.seed,
        "shipped": plan.shipped,
        "sampler": plan.sampler,
        "date": time.strftime("%Y-%m-%d"),
        "device": plan.device,
        "torch": torch.__version__,
        "mmccd": __version__,
        "pairs": ["-".join(p) for p in plan.pairs],
        "rule": stopping_rule(plan.training),
        "training": asdict(plan.training),
        "protocol": PROTOCOL.format(first=first, last=last, scored=scored, size=size, fpr=r.fpr),
    }


def collect_result(plan: Plan, found: Mapping[str, Any], command: str = "") -> dict[str, Any]:
    """All that benchmark.json holds, numbers to five digits.

    Args:
        plan: The benchmark, all of whose tasks are done.
        found: Their results, from `run_tasks`.
        command: The command line that made it, for the record.
    """
    data = load_evaluation_set(plan)
    train, val = (d.describe() for d in load_training_data(plan)) if plan.trained else (None, None)
    scores = {e.key: found[f"score {e.key}"] for e in entries(plan)}
    return round_floats(
        describe_benchmark(plan, command)
        | {
            "data": {
                "learn": train,
                "validate": val,
                "calibrate": data.basis,
                "test": SliceStore(store_paths(plan)["test"]).describe(),
                "check": data.check,
            },
            "subjects": {
                "columns": ["id", "kind", "place", "lesion_cm2"],
                "rows": [[s.id, s.kind, s.place, s.lesion_cm2] for s in data.subjects],
                "healthy": [s.id for s in data.healthy],
                "left_out": data.left_out,
                "pictured": pictured(data.subjects),
            },
            "networks": {m: describe_network(plan, m) for m in plan.trained},
            "scores": scores,
            "paired": {k: compare_rows(scores, k) for k in dict.fromkeys(s.kind for s in data.subjects)},
        }
    )
