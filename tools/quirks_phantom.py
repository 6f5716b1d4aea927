"""How much does each quirk of a protocol move a score? python tools/quirks_phantom.py

The same maps, scored again and again. On the glioma subjects of tools/cyclic_phantom.py (their slice with most lesion) and its healthy ones (their slice with
most brain), with the packaged threshold on FLAIR, the cycle and MMCCD from FLAIR to T2: the clean protocol with each quirk of `mmccd.protocols` alone switched
on, and the published one with each alone switched off. Both stores are made in --work (those of tools/cyclic_phantom.py serve), or gone on with; ready ones:
--evidence, --calibration. Writes data/results/quirks.json and prints a table for each detector (`table`). All that is derived there can be had from the rows."""

import sys
from dataclasses import fields, replace
from pathlib import Path

import cyclic_phantom as base
import numpy as np
import torch
from cyclic_phantom import FPR, PLACES, STORES, dump, tidy

from mmccd.detector import load_detector
from mmccd.files import write_atomic
from mmccd.masking import published_masks
from mmccd.protocols import CLEAN, PAPER, Quirks, at_size, paper_scores
from mmccd.runtime import pick_device
from mmccd.scoring import paired_bootstrap, worst_slice
from mmccd.slices import to_volume
from mmccd.weights.hub import WEIGHTS, packaged_places

RESULT = Path(__file__).parent.parent / "data" / "results" / "quirks.json"
NAMES = {
    "threshold-flair": "threshold on FLAIR",
    "cycle-flair-t2": "cycle, FLAIR to T2",
    "mmccd-flair-t2": "MMCCD, FLAIR to T2",
}
SIZE, EVERY, HOME, SCORES = 128, 10, "build/cyclic_phantom", ("dice", "auc", "assd")
QUIRKS = tuple(f.name for f in fields(Quirks) if f.name != "few_strips")  # that one acts on predictions, not on maps
SHORT = {
    "fitted": "threshold picked on the test labels",
    "short_grid": "its grid stops at 0.099 of the maximum",
    "min_max": "min-max over the whole test set",
    "grown_labels": "labels grow when resized",
    "eroded": "prediction cut to the eroded brain, truth not",
    "background": "AUROC over background too",
    "directed_means": "ASSD: mean of two directed means",
    "pixels": "ASSD in pixels",
    "empty_error": "ASSD: error on an empty mask",
    "nan_for_empty": "0/0 left as nan",
    "no_healthy": "no healthy slice scored",
}
PROTOCOL = (
    f"Phantoms, FLAIR, slice protocol: of each glioma subject the slice of places {PLACES[0]} to {PLACES[-1]} with most lesion, of each healthy subject the one with most brain. Maps are made once, as in "
    f"`mmccd detect` (networks at 64x64, resized there and back to 240x240); then every protocol scores the same maps at {SIZE}x{SIZE}, the paper's size: maps by area, labels by area and then > 0 "
    "(grown_labels on) or with their area kept (off). `own size` alone scores at 240x240. Threshold where it is not fitted to the test labels: 1 % of the brain of other healthy subjects (another seed, "
    f"places {', '.join(map(str, PLACES[::EVERY]))}) lies above it. dice, auc, assd: means over the glioma slices; assd in mm, in pixels where that quirk is on. Where the published code would stop with an error, the "
    "error is given, no ASSD, and what else it would have said. healthy: n slices, mean share of the brain that is marked, share of slices where nothing is (their mean Dice). moves: the score with the change less the score without it, subject by subject, with a 95 % percentile bootstrap interval. fitted, and with it the published protocol, is an oracle."
)


# the slices


def healthy_slice(store, id):
    "The slice with most brain."
    rows, batch = base.slices_of(store, id)
    brain = to_volume(batch["brain"])
    k = worst_slice(np.zeros_like(brain), brain, range(len(rows)))
    return base.Subject(id, "healthy", rows[k].place, 0.0, {m: x[[k]] for m, x in batch.items()})


def collect(store, calibration):
    "Test slices, lesions first; batches of the healthy slices for thresholds; who was left out."
    if not store.ids or not calibration.ids:
        raise ValueError("there is nobody to measure: both stores need subjects")
    ill = {id: base.protocol_slice(store, id) for id in store.ids if base.kind_of(id) == "glioma"}
    test = [s for s in ill.values() if s] + [
        healthy_slice(store, id) for id in store.ids if base.kind_of(id) == "healthy"
    ]
    if not any(ill.values()):
        raise ValueError(f"there is no glioma at places {PLACES[0]} to {PLACES[-1]} in {store.place}; prepare some")
    return (
        test,
        [base.slices_of(calibration, id, EVERY)[1] for id in calibration.ids],
        [f"{id}: no lesion at places {PLACES[0]} to {PLACES[-1]}" for id, s in ill.items() if not s],
    )


def arrays(batch, key):
    return list(batch[key][:, 0].numpy())


# the measurement


def runs():
    "Name -> (quirks, size): clean at its own size and at the paper's, each quirk alone added; the paper's, each alone taken away."
    yield "own size", (CLEAN, 0)
    yield "clean", (CLEAN, SIZE)
    for q in QUIRKS:
        yield f"clean + {q}", (replace(CLEAN, **{q: True}), SIZE)
    yield "paper", (PAPER, SIZE)
    for q in QUIRKS:
        yield f"paper - {q}", (replace(PAPER, **{q: False}), SIZE)


def score(maps, test, healthy, quirks, size):
    "One protocol on the maps of one detector: what the JSON keeps."
    truths, brains = ([arrays(s.batch, k)[0] for s in test] for k in ("lesion", "brain"))

    def ask(q):
        return paper_scores(maps, truths, brains, q, healthy, FPR, size)

    try:
        r, stopped = ask(quirks), {}
    except ValueError as error:
        if not quirks.empty_error:
            raise
        r, stopped = ask(replace(quirks, empty_error=False)), {"error": str(error)}  # what else it would have said

    def known(k, v):
        return None if np.isnan(v) or (stopped and k == "assd") else v

    rows = [[known(k, row[k]) for k in SCORES] for row in r["rows"] if row["lesion"]]
    return stopped | {
        "threshold": r["threshold"],
        **{k: known(k, r[k]) for k in SCORES},
        "healthy": r["healthy"] and {k: known(k, v) for k, v in r["healthy"].items()},
        "rows": rows,
    }


def measure(detector, test, calibration):
    "All protocols on one detector's maps, which are made once."
    m = base.method("", "", detector)
    maps = [m.maps(s.batch)[0, 0].numpy() for s in test]
    healthy = (
        [a for batch in calibration for a in m.maps(batch)[:, 0].numpy()],
        [b for batch in calibration for b in arrays(batch, "brain")],
    )
    return {name: score(maps, test, healthy, *how) for name, how in runs()}


def near_the_border(test):
    "Share of the brain's pixels that fewer strips cover than the middle of the picture, at the paper's size."
    cover = published_masks(SIZE).sum(0)[0].numpy()
    brains = [at_size(np.zeros(b.shape), np.zeros(b.shape), b, SIZE)[2] for s in test for b in arrays(s.batch, "brain")]
    return sum((b & (cover < cover.max())).sum() for b in brains) / sum(b.sum() for b in brains)


def evaluate(detectors, store, calibration, say=print):
    "What the JSON holds but for its head."
    test, batches, gone = collect(store, calibration)
    result = {
        "left_out": gone,
        "subjects": {"columns": ["id", "place", "lesion_cm2"], "rows": [[s.id, s.place, s.lesion_cm2] for s in test]},
        "columns": SCORES,
        "quirks": SHORT,
        "few_strips": {
            "brain": float(near_the_border(test)),
            "what": "share of the brain's pixels near the upper or left border, which published strips cover less often; where it is 0 that quirk moves nothing",
        },
        "detectors": {},
    }
    for name, d in detectors.items():
        record = base.method(name, NAMES.get(name, name), d).record
        result["detectors"][name] = {"name": NAMES.get(name, name), **record, "runs": measure(d, test, batches)}
        found = result["detectors"][name]["runs"]
        say(f"{name:16} Dice clean {found['clean']['dice']:.3f}, paper {found['paper']['dice']:.3f}")
    return tidy(result) | {"moves": moves(tidy(result))}


# what follows from the rows


def rows(run, score):
    return [r[SCORES.index(score)] for r in run["rows"]]


def moved(after, before):
    "By score: how much a change moves it, subject by subject; no ASSD where a protocol stops."
    return {c: paired_bootstrap(rows(after, c), rows(before, c)) for c in SCORES}


def moves(result):
    "By detector: each quirk added to the clean protocol, each taken from the published one, the size, and all at once."
    out = {}
    for name, d in result["detectors"].items():
        r = d["runs"]
        out[name] = {
            "size": moved(r["clean"], r["own size"]),
            "on": {q: moved(r[f"clean + {q}"], r["clean"]) for q in QUIRKS},
            "off": {q: moved(r[f"paper - {q}"], r["paper"]) for q in QUIRKS},
            "all": moved(r["paper"], r["clean"]),
        }
    return tidy(out)


def table(result, name):
    "Markdown of one detector: what each quirk moves, switched on in the clean protocol and off in the published one."
    r, m = result["detectors"][name]["runs"], result["moves"][name]
    digits = {"dice": 3, "auc": 3, "assd": 2}

    def unit(run):
        return " px" if run == "paper" else " mm"

    def shift(v, c):
        return (
            "stops"
            if v[c]["mean"] is None
            else "0"
            if v[c]["mean"] == v[c]["low"] == v[c]["high"] == 0
            else f"{v[c]['mean']:+.{digits[c]}f}"
        )

    def level(run):
        return [
            "stops" if r[run][c] is None else f"{r[run][c]:.{digits[c]}f}{unit(run) * (c == 'assd')}" for c in SCORES
        ]

    lines = [
        ["", "Dice", "AUROC", "ASSD", "Dice", "AUROC", "ASSD"],
        ["---"] * 7,
        ["**clean**, left; **paper**, right", *level("clean"), *level("paper")],
    ]
    for q in QUIRKS:
        lines.append([SHORT[q], *(shift(m[way][q], c) for way in ("on", "off") for c in SCORES)])
    return (
        f"{NAMES.get(name, name)}: each quirk switched on in the clean protocol (left), off in the published one (right)\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
    )


def head(args, where, device):
    "How the numbers came about, and how to get them again."
    command = "python tools/quirks_phantom.py" + f" --device {device}" * (device != "cpu") + " --as-is" * args.as_is
    return (
        {"command": command, "before": [base.store_command(k, HOME) for k in STORES]}
        | base.circumstances(where, device)
        | {"protocol": PROTOCOL, "size": SIZE, "every": EVERY}
    )


def main(argv=None, weights=WEIGHTS):
    args = base.usual_options(__doc__, RESULT).parse_args(argv)
    torch.set_num_threads(1)
    device, (where, store, calibration) = pick_device(args.device), base.open_stores(args)
    detectors = {name: load_detector(packaged_places(weights)[name]).to(device) for name in NAMES}
    result = (
        head(args, where, device)
        | {"calibrated_on": f"places {', '.join(map(str, PLACES[::EVERY]))} of {calibration.describe()}"}
        | evaluate(detectors, store, calibration, lambda s: print(s, flush=True))
    )
    write_atomic(args.out, dump(result).encode())
    print(*(table(result, name) for name in NAMES), sep="\n\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
