"""Does a cycle see what a threshold does not? python tools/cyclic_phantom.py [--runs RUN ...]

On fresh phantom subjects (60 glioma, 30 MS, 30 infarct, 30 healthy; the frozen phantom, a seed nothing was trained or adjusted on) and all directed pairs
X to Y of FLAIR, T1 and T2: the threshold on X, one-way translation (f(x) - y)^2, which needs Y too, and the cycle (g(f(x)) - x)^2, beside everything
positive. One threshold rule for all: 1 % of the brain of other healthy subjects lies above it. RUN is a folder that `mmccd train cycle` left with two
networks for one pair; it adds rows for that pair both ways. Both stores are made in --work, or gone on with; ready ones: --evidence, --calibration.
Writes data/results/cyclic_phantom.json and prints the table (`table`). Everything derived there can be had again from the rows of subjects (`rows`)."""

import argparse
import json
import math
import sys
from collections import Counter, namedtuple
from datetime import date
from pathlib import Path

import numpy as np
import torch

import mmccd
from mmccd import phantom
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import make_recipe, prepare
from mmccd.cases.store import SliceStore
from mmccd.detection.maps import map_slices
from mmccd.detector import EverythingPositive, fingerprint, healthy_threshold, load_detector
from mmccd.files import round_floats, to_json, write_atomic
from mmccd.intensity import BACKGROUND, DEFAULT
from mmccd.runtime import pick_device
from mmccd.scoring import bootstrap_interval, score_subjects, slice_protocol, summarise, worst_slice
from mmccd.slices import MIN_BRAIN, resize, resize_labels, to_volume
from mmccd.training_loop import make_config, masked_mean
from mmccd.translate import directed_pairs
from mmccd.weights.hub import WEIGHTS

RESULT = Path(__file__).parent.parent / "data" / "results" / "cyclic_phantom.json"
MODALITIES, PLACES, FPR, GROUP = ("flair", "t1", "t2"), range(70, 90), 0.01, 6
KINDS = {"glioma": "glioma", "ms": "MS", "infarct": "infarct"}
STORES = {
    "evidence": (Phantoms(healthy=30, glioma=60, ms=30, infarct=30, seed=402, whole=True), range(70, 90)),
    "calibration": (Phantoms(healthy=20, seed=403, whole=True), range(30, 126)),
}
BINS = {
    "under 2 cm2": (0, 2),
    "2 to 10 cm2": (2, 10),
    "10 cm2 and more": (10, math.inf),
}  # chosen by what radiologists call small, not by scores
SCORES = ("dice", "dice_oracle", "ap", "auroc", "fpr")
PROTOCOL = (
    "Each subject at its own 240x240; networks work at 64x64, resized there and back as in `mmccd detect`. Of the slices at places 70 to 89 the one "
    "with most lesion inside the brain, all its brain pixels; a subject without lesion there is left out. dice: threshold calibrated at 1 % false "
    "positives on healthy subjects of another seed, places 70 to 89, no lesion label; dice_oracle: threshold fitted to the labels of the subjects of "
    "that kind. Intervals: 95 % percentile bootstrap over subjects. healthy: share of the brain over the 20 slices above the calibrated threshold."
)

Method = namedtuple(
    "Method", "key name input target needs maps fixed record"
)  # maps: batch -> (b 1 h w); fixed: threshold true by definition, or None
Subject = namedtuple("Subject", "id kind place lesion_cm2 batch")


# the stores


def places(work, evidence=None, calibration=None):
    "Where both stores lie."
    return {
        k: Path(given or Path(work) / f"{k}.zarr")
        for k, given in (("evidence", evidence), ("calibration", calibration))
    }


def fill(where):
    "Make both stores, go on with them, or find them complete; another recipe is refused."
    for name, place in where.items():
        phantoms, slices = STORES[name]
        place.parent.mkdir(parents=True, exist_ok=True)
        failed = prepare(phantoms, place, size=240, slices=slices, modalities=list(MODALITIES), jobs=0)["failed"]
        if failed:
            raise ValueError(f"{len(failed)} subjects could not be prepared: {failed[0]['error']}")


def recipe_of(name):
    return make_recipe(
        240, STORES[name][1], list(MODALITIES), False, MIN_BRAIN, False, DEFAULT, phantom_of(STORES[name][0])
    )


def phantom_of(p):
    return {"version": phantom.VERSION, "seed": p.seed, "whole": p.whole}


def kind_of(id):
    return id.split("-")[1]


def prepare_command(place, recipe, ids):
    "The `mmccd prepare` that makes a store of phantoms."
    how, counts = recipe["phantom"], Counter(map(kind_of, ids))
    if recipe["min_brain"] != MIN_BRAIN or recipe["normalisation"] != DEFAULT or recipe["tumour_free"]:
        raise ValueError(f"the store {place} was made with other settings than the usual ones")
    kinds = " ".join(f"--{k} {counts[k]}" for k in phantom.KINDS if counts[k])
    return (
        f"mmccd prepare phantom {place} {kinds} --seed {how['seed']}{' --whole-heads' * how['whole']} --slices {recipe['slices'][0]}:{recipe['slices'][1]} "
        f"--size {recipe['size']} --modalities {','.join(recipe['modalities'])}"
    )


def store_command(name, folder):
    "The same for one of the two stores."
    return prepare_command(f"{folder}/{name}.zarr", recipe_of(name), [id for id, _ in STORES[name][0].tasks()])


def slices_of(store, id, every=1):
    "Rows and batch of a subject's slices at places 70 to 89, or at every 4th of them."
    data, wanted = store.dataset([id], tumour_free=False, in_memory=False), PLACES[::every]
    at = [k for k, r in enumerate(data.rows) if r.place in wanted]
    if [data.rows[k].place for k in at] != list(wanted):
        raise ValueError(f"{id} has not all slices at places {PLACES[0]} to {PLACES[-1]}; prepare them all")
    return [data.rows[k] for k in at], data.batch(at)


def protocol_slice(store, id):
    "The slice that counts; None for a subject without lesion there."
    rows, batch = slices_of(store, id)
    lesion, brain = (to_volume(batch[k]) for k in ("lesion", "brain"))
    if not (lesion & brain).any():
        return None
    k = worst_slice(lesion, brain, range(len(rows)))
    return Subject(id, kind_of(id), rows[k].place, rows[k].lesion_cm2, {m: x[[k]] for m, x in batch.items()})


# the methods


class OneWay:
    "What `map_slices` needs of a detector, for two modalities at once: x, and y to compare with."

    def __init__(self, detector):
        self.detector, self.config = detector, detector.config

    @torch.no_grad()
    def anomaly_map(self, xy, brain, generator=None):
        x, y = xy.split(1, 1)
        return torch.where(brain, (self.detector.translate(x, brain, generator) - y) ** 2, 0.0)


def mapper(looker, needs, device):
    "Batch in, map out, as `mmccd detect` makes it; the seed is the same for each subject."

    def maps(batch):
        x = torch.cat([batch[m] for m in needs], 1).to(device)
        return map_slices(looker, x, batch["brain"].to(device), torch.Generator(device).manual_seed(0)).cpu()

    return maps


def method(key, name, detector, one_way=False, fixed=None, **record):
    "A detector (or its way there alone) as a row of the table."
    c = detector.config
    target = getattr(c, "target", None)
    needs = (c.input, target) if one_way else (c.input,)
    maps = mapper(OneWay(detector) if one_way else detector, needs, detector.device)
    return Method(key, name, c.input, target, needs, maps, fixed, {"fingerprint": fingerprint(detector)} | record)


def all_methods(cycles, runs=None, thresholds=None, trained=None):
    "Every row: `cycles` and `runs` are detectors by pair, `thresholds` by modality; `trained` says what each network has seen."
    trained, floor = trained or {}, EverythingPositive()
    yield method("everything positive", "everything positive", floor, fixed=floor.threshold)._replace(
        input=None, needs=()
    )
    for m, d in (thresholds or {}).items():
        yield method(f"threshold {m}", f"threshold on {m.upper()}", d)
    for (x, y), d in cycles.items():
        seen = {"trained": trained.get("shared")}
        yield method(f"one-way {x}-{y}", f"one-way translation (needs {y.upper()})", d, one_way=True, **seen)
        yield method(f"cycle {x}-{y}", "cycle", d, **seen)
        if runs and (x, y) in runs:
            yield method(f"two networks {x}-{y}", "cycle, two networks", runs[x, y], trained=trained.get((x, y)))


def load_runs(folders, evidence=(), as_is=False):
    "Trained pairs of networks, both ways; and what each has seen."
    runs, trained = {}, {}
    for folder in map(Path, folders):
        d = load_detector(folder)
        if getattr(d.config, "modalities", None) != ():
            raise ValueError(f"{folder} does not hold two networks for one pair; leave it out")
        record = json.loads((folder / "train.json").read_text())
        about, result = record["about"], record.get("result") or {}
        if record["status"] != "done" and not as_is:
            raise ValueError(f"the training in {folder} is not done: go on with it by --resume")
        if both := set(about["data"]["ids"] + about["validation"]["ids"]) & set(evidence):
            raise ValueError(f"{folder} was trained on {min(both)}, a subject of the evidence")
        seen = {
            "status": record["status"],
            "data": about["data"]["what"],
            "steps": result.get("step"),
            "samples": result.get("samples"),
            **{k: about["training"][k] for k in ("lr", "batch_size", "seed")},
        }
        for pair in directed_pairs((d.config.input, d.config.target)):
            runs[pair], trained[pair] = d.for_pair(*pair), seen
    return runs, trained


def train_commands(folders, folder):
    "The commands that make the runs, for a stranger."
    out = []
    for run in map(Path, folders):
        about = json.loads((run / "train.json").read_text())["about"]
        store, of, usual = about["data"], about["training"], make_config("tiny")
        out.append(prepare_command(f"{folder}/train.zarr", store["recipe"], store["ids"] + about["validation"]["ids"]))
        options = "".join(
            f" --{k.replace('_', '-')} {of[k]}"
            for k in ("steps", "batch_size", "lr", "seed")
            if of[k] != getattr(usual, k)
        )
        ends = " ".join(f"--{k} {about['config'][k]}" for k in ("input", "target"))
        out.append(
            f"mmccd train cycle {folder}/train.zarr {ends}{options} --val {len(about['validation']['ids'])} --out {folder}/{run.name}"
        )
    return list(dict.fromkeys(out))


def shared_training(name="cycle"):
    "Steps and samples of a packaged network, from the last line of its log; None where there is no log."
    file = WEIGHTS / name / "log.csv"
    if not file.exists():
        return None
    names, *lines = file.read_text().split()
    last = dict(zip(names.split(","), lines[-1].split(",")))
    return {k: int(last[{"steps": "step"}.get(k, k)]) for k in ("steps", "samples")}


# the measurement


def healthy_values(group, store, ids, every=1):
    "For each subject a list: each method's values inside the brain, all 20 slices or some."
    for id in ids:
        _, batch = slices_of(store, id, every)
        yield [m.maps(batch)[batch["brain"]] for m in group]


def threshold_of(m, values):
    "(threshold, share of the calibration's pixels above it)"
    if m.fixed is not None:
        return m.fixed, None
    h = healthy_threshold(values, FPR)
    return h, (values > h).double().mean().item()


def pixels(m, subject):
    "(id, score, truth) of the brain pixels that count."
    return subject.id, *slice_protocol(
        *(to_volume(v) for v in (m.maps(subject.batch), subject.batch["lesion"], subject.batch["brain"])), range(1)
    )


def measure(group, store, calibration, subjects, healthy, every=1):
    "Some methods: the threshold of each, its scores by kind, its share of each healthy brain. Few at a time, as their values lie in memory."
    cut = [
        threshold_of(m, torch.cat(v))
        for m, v in zip(group, zip(*healthy_values(group, calibration, calibration.ids, every)))
    ]
    shares = [
        [(v > h).double().mean().item() for v, (h, _) in zip(values, cut)]
        for values in healthy_values(group, store, healthy, every)
    ]
    kinds = [k for k in KINDS if any(s.kind == k for s in subjects)]
    for i, (m, (h, reached)) in enumerate(zip(group, cut)):
        yield (
            m,
            {
                "threshold": h,
                "fpr_reached": reached,
                "healthy": [s[i] for s in shares],
                "kinds": {k: score_subjects([pixels(m, s) for s in subjects if s.kind == k], h) for k in kinds},
            },
        )


def in_groups(methods, *args):
    "`measure` for all methods, a few at a time."
    for i in range(0, len(methods), GROUP):
        yield from measure(methods[i : i + GROUP], *args)


def spread(values):
    "Of one number a healthy subject: n, mean, sd, max, interval."
    if not values:
        return {"n": 0}
    low, high = bootstrap_interval(values) if len(values) > 1 else (None, None)
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"n": len(values), "mean": float(np.mean(values)), "sd": sd, "max": max(values), "low": low, "high": high}


def evaluate(methods, store, calibration, say=print, every=1, look=in_groups):
    "All methods on all subjects of the evidence: what the JSON holds but for its head. `every`: of the slices that thresholds and healthy shares are measured on."
    if not store.ids or not calibration.ids:
        raise ValueError("there is nobody to measure: both stores need subjects")
    of = {k: [id for id in store.ids if kind_of(id) == k] for k in ("healthy", *KINDS)}
    found = {id: protocol_slice(store, id) for k in KINDS for id in of[k]}
    subjects = [s for s in found.values() if s]
    result = {
        "left_out": [f"{id}: no lesion at places {PLACES[0]} to {PLACES[-1]}" for id, s in found.items() if not s],
        "subjects": {
            k: {
                "columns": ["id", "place", "lesion_cm2", "pixels", "prevalence"],
                "rows": [outline(s) for s in subjects if s.kind == k],
            }
            for k in KINDS
        },
        "methods": {},
        "kinds": {k: {} for k in KINDS},
        "healthy": {"ids": of["healthy"], "shares": {}, "summary": {}},
    }
    methods = list(methods)
    for m, got in look(methods, store, calibration, subjects, of["healthy"], every):
        result["methods"][m.key] = {
            "method": m.name,
            "input": m.input,
            "target": m.target,
            "needs": m.needs,
            "threshold": got["threshold"],
            "fpr_reached": got["fpr_reached"],
            **m.record,
        }
        for k, r in got["kinds"].items():
            result["kinds"][k][m.key] = {
                "oracle_threshold": r["oracle_threshold"],
                "summary": {c: r["summary"][c] for c in SCORES},
                "columns": SCORES,
                "rows": [[s[c] for c in SCORES] for s in r["subjects"]],
            }
        result["healthy"]["shares"][m.key], result["healthy"]["summary"][m.key] = got["healthy"], spread(got["healthy"])
        say(
            f"{m.key:24} threshold {got['threshold']:.4g}, "
            + ", ".join(f"{k} AP {r['summary']['ap']['mean']:.3f}" for k, r in got["kinds"].items())
        )
    return round_floats(result)


def outline(s):
    "What a subject is, whatever looks at it."
    truth = s.batch["lesion"][s.batch["brain"]]
    return [s.id, s.place, s.lesion_cm2, truth.numel(), truth.double().mean().item()]


@torch.no_grad()
def translation_error(detector, batch):
    "Mean squared error inside the brain of the way there, at the network's size."
    c = detector.config
    x, y = (
        resize(batch[m], c.size, BACKGROUND.get(c.normalisation, -1.0)).to(detector.device) for m in (c.input, c.target)
    )
    brain = resize_labels(batch["brain"], c.size).to(detector.device)
    return masked_mean((detector.translate(x, brain) - y) ** 2, brain).item()


def translations(cycles, runs, store):
    "How well do the networks translate healthy brains they have not seen? By pair: shared, two networks, and their difference, a number a subject."
    out = {"-".join(p): [] for p in cycles}
    for id in (id for id in store.ids if kind_of(id) == "healthy"):
        _, batch = slices_of(store, id)
        for p, d in cycles.items():
            row = {"shared": translation_error(d, batch)} | (
                {"two networks": translation_error(runs[p], batch)} if p in runs else {}
            )
            out["-".join(p)].append(
                row | ({"shared - two networks": row["shared"] - row["two networks"]} if p in runs else {})
            )
    return round_floats({p: {c: summarise(rows, c) for c in rows[0]} for p, rows in out.items() if rows})


# what follows from the rows


def rows(result, kind, key):
    "The subjects of a kind as a method scored them, a dict each."
    who, what = result["subjects"][kind], result["kinds"][kind][key]
    return [
        dict(zip(who["columns"], a)) | dict(zip(what["columns"], b))
        for a, b in zip(who["rows"], what["rows"], strict=True)
    ]


def difference(a, b):
    "Subject by subject: how much better is the first?"
    if [r["id"] for r in a] != [r["id"] for r in b]:
        raise ValueError("a paired comparison needs the same subjects in the same order")
    return {c: summarise([{c: x[c] - y[c]} for x, y in zip(a, b)], c) for c in ("ap", "dice_oracle", "dice")}


def paired(result):
    "The cycle against each other method of its pair."
    out = {}
    for kind, found in result["kinds"].items():
        for key in (k for k in found if k.startswith("cycle ")):
            pair = key.removeprefix("cycle ")
            rivals = {
                "threshold": f"threshold {pair.split('-')[0]}",
                "one-way": f"one-way {pair}",
                "two networks": f"two networks {pair}",
            }
            out.setdefault(kind, {})[pair] = {
                f"cycle - {name}": difference(rows(result, kind, key), rows(result, kind, rival))
                for name, rival in rivals.items()
                if rival in found
            }
    return round_floats(out)


def by_size(result):
    "All kinds together, by the area of the lesion in the protocol's slice."
    subject = [dict(zip(v["columns"], row)) | {"kind": k} for k, v in result["subjects"].items() for row in v["rows"]]
    out = {
        name: {"subjects": dict(Counter(s["kind"] for s in subject if least <= s["lesion_cm2"] < most))}
        for name, (least, most) in BINS.items()
    }
    for key in result["methods"]:
        everyone = [r for k in result["kinds"] if key in result["kinds"][k] for r in rows(result, k, key)]
        for name, (least, most) in BINS.items():
            some = [r for r in everyone if least <= r["lesion_cm2"] < most]
            out[name][key] = {c: summarise(some, c) for c in ("ap", "dice_oracle")}
    return round_floats(out)


def missing(where):
    "Subjects that the stores should have and have not."
    return {
        k: gone
        for k, place in where.items()
        if (gone := sorted({id for id, _ in STORES[k][0].tasks()} - set(SliceStore(place).ids)))
    }


def table(result):
    "Markdown: a line for each method, AP [interval], Dice at the oracle and at the calibrated threshold for each kind."

    def cell(kind, key):
        s = result["kinds"][kind].get(key, {}).get("summary")
        if not s:
            return "-"
        ap, inside = s["ap"], "" if s["ap"]["low"] is None else f" [{s['ap']['low']:.2f}, {s['ap']['high']:.2f}]"
        return f"{ap['mean']:.2f}{inside} / {s['dice_oracle']['mean']:.2f} / {s['dice']['mean']:.2f}"

    def healthy(key):
        s = result["healthy"]["summary"][key]
        return f"{s['mean']:.1%} (at most {s['max']:.1%})" if s["n"] else "-"

    counts = {k: len(v["rows"]) for k, v in result["subjects"].items()}
    lines = [
        [
            "from",
            "to",
            "method",
            *(f"{n} × {KINDS[k]}" for k, n in counts.items()),
            f"{len(result['healthy']['ids'])} × healthy",
        ],
        ["---"] * (4 + len(counts)),
    ]

    def up(m):
        return m.upper() if m else ""

    for key, m in result["methods"].items():
        lines.append([up(m["input"]), up(m["target"]), m["method"], *(cell(k, key) for k in counts), healthy(key)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ordered(methods):
    "Everything positive, then by input: its threshold, then its pairs."

    def place(m):
        return (m.input is not None, m.input or "", m.target or "")

    return sorted(methods, key=place)


def usual_options(words, out):
    "What each tool that measures on these subjects can be asked for."
    parser = argparse.ArgumentParser(description=words.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("build/cyclic_phantom"), help="folder for the two stores")
    parser.add_argument("--evidence", type=Path, help="a store made already")
    parser.add_argument("--calibration", type=Path, help="a store made already")
    parser.add_argument(
        "--as-is", action="store_true", help="a trial: take stores, weights and runs as they are, unfinished"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=out)
    return parser


def options(argv):
    "What was asked for."
    parser = usual_options(__doc__, RESULT)
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[], help="folders of trained runs with two networks each"
    )
    return parser.parse_args(argv)


def open_stores(args):
    "Where both stores lie, and both, filled unless they are taken as they are; nobody else may be in them."
    if not args.out.parent.is_dir():
        raise ValueError(f"cannot write {args.out}: its folder does not exist")
    where = places(args.work, args.evidence, args.calibration)
    if not args.as_is:
        fill(where)
    stores = [SliceStore(where[k]) for k in ("evidence", "calibration")]
    if more := sorted({id for s in stores for id in s.ids} - {id for p, _ in STORES.values() for id, _ in p.tasks()}):
        raise ValueError(f"the stores hold {more[0]}, who is none of the subjects; make stores for this tool alone")
    return where, *stores


def head(args, where, device):
    "How the numbers came about, and how to get them again."
    home, names = "build/cyclic_phantom", " ".join(f"build/cyclic_phantom/{Path(r).name}" for r in args.runs)
    command = (
        "python tools/cyclic_phantom.py"
        + f" --runs {names}" * bool(names)
        + f" --device {device}" * (device != "cpu")
        + " --as-is" * args.as_is
    )
    return (
        {"command": command, "before": [store_command(k, home) for k in STORES] + train_commands(args.runs, home)}
        | circumstances(where, device)
        | {"protocol": PROTOCOL}
    )


def circumstances(where, device):
    "When, where and with what something was measured."
    return {
        "date": date.today().isoformat(),
        "device": device,
        "torch": torch.__version__,
        "mmccd": mmccd.__version__,
        "phantom": phantom.VERSION,
        "seed": {k: p.seed for k, (p, _) in STORES.items()},
        "fpr": FPR,
        "missing": missing(where),
    }


def main(argv=None):
    args = options(argv)
    torch.set_num_threads(1)
    device, (where, store, calibration) = pick_device(args.device), open_stores(args)
    cycles = {(x, y): load_detector(f"cycle-{x}-{y}").to(device) for x, y in directed_pairs(MODALITIES)}
    runs, trained = load_runs(args.runs, store.ids, args.as_is)
    runs = {p: d.to(device) for p, d in runs.items()}
    thresholds = {m: load_detector(f"threshold-{m}").to(device) for m in MODALITIES}
    methods = ordered(all_methods(cycles, runs, thresholds, trained | {"shared": shared_training()}))
    result = (
        head(args, where, device)
        | {"calibrated_on": f"places {PLACES[0]} to {PLACES[-1]} of {calibration.describe()}"}
        | evaluate(methods, store, calibration, lambda s: print(s, flush=True))
    )
    result |= {"paired": paired(result), "by_size": by_size(result), "translation": translations(cycles, runs, store)}
    write_atomic(args.out, to_json(result).encode())
    print(table(result))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
