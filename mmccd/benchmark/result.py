""""""

import time
from dataclasses import asdict
from pathlib import Path

import torch

from mmccd import __version__
from mmccd.benchmark.dataset import load_evaluation_set, load_training_data, places
from mmccd.benchmark.measure import entries, pictured, run_folder
from mmccd.benchmark.plan import rule
from mmccd.cases.store import SliceStore
from mmccd.detector import fingerprint, load_detector
from mmccd.files import round_floats
from mmccd.registry import METHODS
from mmccd.scoring import paired_bootstrap
from mmccd.training.record import read_record
from mmccd.training_loop import converged


def curve_of(
    folder,  # of a run
    all=False,  # every line, not only those where it was validated
) -> dict:  # columns and rows
    "Training and validation loss as the log has them."
    names, *lines = (Path(folder) / "log.csv").read_text().split()
    rows = [dict(zip(names.split(","), l.split(","))) for l in lines]

    def number(v):
        return float(v) if v else None

    return {
        "columns": ["step", "samples", "loss", "val_loss"],
        "rows": [
            [int(r["step"]), int(r["samples"]), number(r["loss"]), number(r["val_loss"])]
            for r in rows
            if all or r["val_loss"]
        ],
    }


def network(
    plan,  # a `Plan`
    method: str,  # trained in this benchmark
) -> dict:  # ready for JSON
    "What was trained, on what, for how long."
    record = read_record(folder := run_folder(plan, method))
    about, last, d, curve = record["about"], record["result"], load_detector(folder), curve_of(folder)
    losses = [r[3] for r in curve["rows"]]
    return {
        "name": METHODS[method].title,
        "parameters": sum(p.numel() for p in d.parameters()),
        "trained": sum(p.numel() for p in d.parameters() if p.requires_grad),
        "steps": last["step"],
        "samples": last["samples"],
        "slices": about["data"]["slices"],
        "converged": converged(losses, plan.training) if plan.training.patience else None,
        "val_loss": last["val_loss"],
        "fingerprint": fingerprint(d),
        "curve": curve,
        "seconds": last["seconds"],
        "device": record["device"],
        "date": record["date"],
    }


def paired(
    scores: dict,  # by key, from `measure`
    kind: str,  # of subject
) -> dict:  # "a - b" -> score -> mean, low, high, n
    "Subject by subject: each trained method less the threshold on its input, and MMCCD less what stands beside it."

    def column(e, c):
        return [r[e["kinds"][kind]["columns"].index(c)] for r in e["kinds"][kind]["rows"]]

    def find(m, like):
        return next(
            (
                k
                for k, e in scores.items()
                if e["method"] == m
                and e["input"] == like["input"]
                and e["target"] in (None, like["target"])
                and (not METHODS[m].trainable or e["shipped"] == like["shipped"])
            ),
            None,
        )

    out = {}
    for key, e in scores.items():
        for other in (find(m, e) for m in METHODS[e["method"]].compared_with):
            if other:
                out[f"{key} - {other}"] = {
                    c: paired_bootstrap(column(e, c), column(scores[other], c)) for c in ("ap", "dice", "dice_oracle")
                }
    return out


PROTOCOL = (
    "Slice protocol: of each subject's slices at places {first} to {last} the one with most lesion inside the brain, all its brain pixels, at {scored} pixels a side; networks see {size}. "
    "dice and fpr: threshold calibrated to {fpr:.0%} false positives on healthy slices of other subjects. _oracle: threshold fitted to the labels of the subjects of that kind, the same for all of them. "
    "Intervals: 95 % percentile bootstrap over subjects. healthy: share of each healthy brain above the calibrated threshold. ASSD in mm."
)


def whole_result(
    plan,  # a `Plan`
    found: dict,  # from `work_off`
    command="",  # that was given
) -> dict:  # what benchmark.json holds
    "All that was found, with what it takes to find it again."
    j, r, t = load_evaluation_set(plan), plan.recipe, plan.training
    scores = {e.key: found[f"score {e.key}"] for e in entries(plan)}
    size = load_training_data(plan)[0].recipe["size"] if plan.trained else r.size
    scored = SliceStore(places(plan)["test"]).recipe["size"]
    kinds = list(dict.fromkeys(s.kind for s in j.subjects))
    head = {
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
        "rule": rule(t),
        "training": asdict(t),
        "protocol": PROTOCOL.format(first=r.places[0], last=r.places[-1], scored=scored, size=size, fpr=r.fpr),
    }
    data = {
        "learn": load_training_data(plan)[0].describe() if plan.trained else None,
        "validate": load_training_data(plan)[1].describe() if plan.trained else None,
        "calibrate": j.basis,
        "test": SliceStore(places(plan)["test"]).describe(),
        "check": j.check,
    }
    people = {
        "columns": ["id", "kind", "place", "lesion_cm2"],
        "rows": [[s.id, s.kind, s.place, s.lesion_cm2] for s in j.subjects],
        "healthy": [s.id for s in j.healthy],
        "left_out": j.left_out,
        "pictured": pictured(j.subjects),
    }
    return round_floats(
        head
        | {
            "data": data,
            "subjects": people,
            "networks": {m: network(plan, m) for m in plan.trained},
            "scores": scores,
            "paired": {k: paired(scores, k) for k in kinds},
        }
    )
