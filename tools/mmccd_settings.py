"""How many network evaluations does a masked cycle need? python tools/mmccd_settings.py [--jobs 2]

One slice (slice protocol, 240 pixels) of each of 20 validation gliomas of a seed that is neither trained on nor part of the evidence: the sampler `paper`
(every published strip, 100 DDIM steps) against settings of at most 64 evaluations a slice, paired by patient; then what else may help (pooling, division by
healthy means, more targets) and one controlled experiment, the width of the strip. Labels of these validation patients choose the default sampler by a
rule written down before any number was known: the cheapest setting whose mean AP is at most 0.01 below that of `paper`. Each setting's rows are kept in
--work, so that an interrupted run goes on. Writes data/results/mmccd_settings.json."""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import date
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch

import mmccd
from mmccd import phantom
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import fingerprint, load_detector
from mmccd.files import write_atomic
from mmccd.intensity import BACKGROUND, DEFAULT
from mmccd.masked_diffusion import SAMPLERS, Sampler, healthy_mean, with_config
from mmccd.masking import MaskPlan, pool, std_over_masks
from mmccd.runtime import single_thread
from mmccd.scoring import average_precision, summarise
from mmccd.slices import resize, resize_back, resize_labels
from mmccd.translate import directed_pairs

sys.path.insert(0, str(Path(__file__).parent))
from cyclic_phantom import MODALITIES, PLACES, prepare_command, protocol_slice, slices_of, tidy

RESULT = Path(__file__).parent.parent / "data" / "results" / "mmccd_settings.json"
VALIDATION = Phantoms(healthy=10, glioma=20, seed=405, whole=True)
MOST, MARGIN = 64, 0.01
POOLS = {
    "mean": pool,
    "min": lambda e, m: pool(e, m, "min"),
    "median": lambda e, m: pool(e, m, "median"),
    "spread": std_over_masks,
}
SETTINGS = {  # all that are compared; the first fifteen were chosen before any was run, the others when several strips at once with more steps came out ahead
    "paper": SAMPLERS["paper"],
    "published strips, 10 steps": Sampler("published", steps=10),
    "published strips, 1 step": Sampler("published"),
    "even strips, 1 step": Sampler("even"),
    "tiles, 4 steps": Sampler("disjoint", steps=4),
    "tiles, 2 steps": Sampler("disjoint", steps=2),
    "tiles, 2 steps, eta 1": Sampler("disjoint", steps=2, eta=1.0),
    "tiles, 1 step": Sampler("disjoint"),
    "tiles, 1 step told t = 0": Sampler("disjoint", spacing="leading"),
    "half overlapping, 1 step": Sampler("even", step=4),
    "2 strips at once, 4 steps": Sampler("disjoint", n_strips=2, steps=4),
    "2 strips at once, 1 step": Sampler("disjoint", n_strips=2),
    "4 strips at once, 4 steps": Sampler("disjoint", n_strips=4, steps=4),
    "4 strips at once, 1 step": Sampler("disjoint", n_strips=4),
    "blocks, 1 step": Sampler("blocks"),
    "2 strips at once, 7 steps": Sampler("disjoint", n_strips=2, steps=7),
    "4 strips at once, 8 steps": Sampler("disjoint", n_strips=4, steps=8),
    "4 strips at once, 14 steps": Sampler("disjoint", n_strips=4, steps=14),
    "4 strips at once, 50 steps": Sampler("disjoint", n_strips=4, steps=50),
    "4 strips at once, 100 steps": Sampler("disjoint", n_strips=4, steps=100),
}
CONTROL = "tiles, 1 step told t = 0"  # shows what a wrong time does; taken out of the candidates after it had been seen to do well, as it does not start at T - 1
STEPS = (
    "tiles, 1 step",
    "4 strips at once, 1 step",
    "4 strips at once, 4 steps",
    "4 strips at once, 8 steps",
)  # asked of all pairs: does the choice carry over?
SHIPPED, OPTIONS = (
    "as shipped",
    ("divided by healthy means", "both targets averaged"),
)  # of detectors as they are shipped
WIDTHS = (
    0,
    4,
    8,
    16,
)  # pixels hidden across, of 64, as the training drew them; 0: nothing is hidden, the whole slice is judged


def print_of(weights):
    "Fingerprint of the networks, whatever sampler and threshold they are shipped with."
    d = load_detector(weights)
    if hasattr(d.config, "sampler"):
        d = with_config(d, sampler=Sampler())
    d.calibration = None
    return fingerprint(d)


def small(batch, m, size):
    "A slice and its brain as the detector sees them."
    return resize(batch[m], size, BACKGROUND.get(DEFAULT, -1.0)), resize_labels(batch["brain"], size)


def score(a, batch):
    "What a map at the network's size is worth on one slice: AP, and its mean inside and outside the lesion."
    a, inside, lesion = resize_back(a, batch["brain"].shape[-2:]), batch["brain"], batch["lesion"]
    return {
        "ap": average_precision(a[inside], lesion[inside]),
        "lesion": a[inside & lesion].mean().item(),
        "rest": a[inside & ~lesion].mean().item(),
    }


def generator():
    return torch.Generator().manual_seed(0)  # the same noise for everyone


def by_sampler(detector, batch, sampler):
    "All poolings of one sampler: {pooling: row}, and evaluations."
    x, brain = small(batch, detector.config.input, detector.config.size)
    maps = detector.maps(x, brain, generator(), sampler=sampler, pools=tuple(POOLS.values()))
    steps = sampler.steps if detector.config.diffusion else 1
    cost = MaskPlan(sampler.family(detector.config.size), brain, skip=sampler.skip).cost(steps)
    return {name: score(torch.where(brain, a, 0.0), batch) | {"evaluations": cost} for name, a in zip(POOLS, maps)}


def by_detector(detector, batch, usual=1.0):
    "One map, divided by what is usual."
    c = detector.config
    x, brain = small(batch, c.input, c.size)
    masked = hasattr(c, "sampler")
    cost = (
        MaskPlan(c.sampler.family(c.size), brain).cost(c.sampler.steps if c.diffusion else 1) * (1 + len(c.extra_targets))
        if masked
        else 2
    )
    return {"mean": score(detector.anomaly_map(x, brain, generator()) / usual, batch) | {"evaluations": cost}}


@torch.no_grad()
def open_eyes(detector, batch):
    "Nothing is hidden, every pixel is judged: MMCCD without masks."
    x, brain = small(batch, detector.config.input, detector.config.size)
    trace = detector.trace(x, torch.zeros_like(brain), brain, generator(), Sampler())
    return {"mean": score(trace.error, batch) | {"evaluations": 2}}


def usual_of(detector, store):
    "Usual map of the healthy subjects of validation, every fourth slice."
    parts = [{k: v[::4] for k, v in slices_of(store, id)[1].items()} for id in store.ids if "healthy" in id]
    both = [small(b, detector.config.input, detector.config.size) for b in parts]
    return healthy_mean(detector, *(torch.cat(v) for v in zip(*both)), generator())


def averaging(detector):
    "The maps of both targets, averaged."
    c = detector.config
    return with_config(detector, extra_targets=tuple(m for m in c.modalities if m not in (c.input, c.target)))


@lru_cache(maxsize=4)
def looker(weights, setting, place):
    "What a setting does with a slice: batch -> {pooling: row}."
    detector = load_detector(weights)
    if setting in SETTINGS:
        return lambda batch: by_sampler(detector, batch, SETTINGS[setting])
    if setting == SHIPPED:
        return lambda batch: by_detector(detector, batch)
    if setting == OPTIONS[1]:
        return lambda batch: by_detector(averaging(detector), batch)
    if setting == OPTIONS[0]:
        usual = usual_of(detector, SliceStore(place))
        return lambda batch: by_detector(detector, batch, usual)
    width = int(setting.removeprefix("width "))
    return lambda batch: by_sampler(detector, batch, Sampler(width=width)) if width else open_eyes(detector, batch)


def measure(weights, setting, place, id):
    "One setting on one patient; None for a patient without lesion there."
    with single_thread():
        found = protocol_slice(SliceStore(place), id)
        return found and {
            "weights": weights,
            "setting": setting,
            "id": id,
            "fingerprint": print_of(weights),
            "found": looker(weights, setting, place)(found.batch),
        }


def pairs_of(weights):
    "The names of all six pairs, of the same kind."
    return [f"{weights.split('-')[0]}-{a}-{b}" for a, b in directed_pairs(MODALITIES)]


def tasks(weights, ids):
    "Everything to be measured, as (weights, setting, id): all samplers with the first weights, options and widths with all."
    yield from ((weights[0], s, id) for s in sorted(SETTINGS, key=lambda s: SETTINGS[s].steps) for id in ids)
    yield from ((w, s, id) for w in pairs_of(weights[0]) if w != weights[0] for s in STEPS for id in ids)
    for w in weights:
        c = load_detector(w).config
        masked = hasattr(c, "sampler")
        extra = [
            SHIPPED,
            OPTIONS[0],
            *(OPTIONS[1:] if masked and c.diffusion else ()),
            *(f"width {v}" for v in WIDTHS if masked),
        ]
        yield from ((w, s, id) for s in extra for id in ids)


def known(file, prints):
    "Rows of an interrupted run, of the same weights."
    rows = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []
    return {(r["weights"], r["setting"], r["id"]): r for r in rows if prints.get(r["weights"]) == r["fingerprint"]}


def everything(place, weights, file, jobs, say):
    "All rows, from `file` or made now and added to it."
    ids = [id for id in SliceStore(place).ids if "glioma" in id]
    done = known(file, {w: print_of(w) for w in {*weights, *pairs_of(weights[0])}})
    todo = [t for t in tasks(weights, ids) if t not in done]
    write_atomic(file, "".join(json.dumps(r) + "\n" for r in done.values()).encode())  # without a line that was cut off
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool_, file.open("a") as out:
        for k, row in enumerate(as_completed([pool_.submit(measure, w, s, place, id) for w, s, id in todo])):
            if (r := row.result()) is None:
                continue
            done[r["weights"], r["setting"], r["id"]] = r
            out.write(json.dumps(r) + "\n")
            out.flush()
            if k % 20 == 0:
                say(f"{k} of {len(todo)}: {r['weights']}, {r['setting']}")
    return done


def column(done, weights, setting, pooling):
    "A setting's rows, in the order of patients."
    return [r["found"][pooling] | {"id": id} for (w, s, id), r in sorted(done.items()) if (w, s) == (weights, setting)]


def line(rows, base):
    "A setting in numbers: AP with its interval, AP minus that of `base` by patient, evaluations, mean of the map in the lesion and in the rest."
    if [r["id"] for r in rows] != [r["id"] for r in base]:
        raise ValueError("a paired comparison needs the same patients in the same order")
    gain = summarise([{"ap": a["ap"] - b["ap"]} for a, b in zip(rows, base)], "ap")

    def mean(c):
        return summarise(rows, c)["mean"]

    return {
        "ap": summarise(rows, "ap"),
        "difference": gain,
        "evaluations": mean("evaluations"),
        "lesion": mean("lesion"),
        "rest": mean("rest"),
    }


def cheapest(lines):
    "The rule: the fewest evaluations, at most `MOST`, among those whose mean AP is at most `MARGIN` below that of paper; None if there is none."
    able = {
        k: v
        for k, v in lines.items()
        if k != CONTROL and v["evaluations"] <= MOST and v["difference"]["mean"] >= -MARGIN
    }
    return min(able, key=lambda k: able[k]["evaluations"], default=None)


def best_pooling(lines):
    "The rule: that with the largest AP among those whose paired interval lies above the mean's, else the mean as published. The median of two is the smaller one: min before median."
    better = {p: v for p, v in lines.items() if p != "mean" and v["difference"]["low"] > 0}
    return max(better, key=lambda p: better[p]["ap"]["mean"], default="mean")


def summary(done, weights):
    "What follows from the rows."
    first = weights[0]

    def of(w, s, p="mean"):
        return column(done, w, s, p)

    samplers = {s: line(of(first, s), of(first, "paper")) for s in SETTINGS}
    fast = cheapest(samplers)
    asked = [s for s in ("paper", "published strips, 1 step", "tiles, 1 step", fast) if s]
    out = {
        "samplers": samplers,
        "fast": fast,
        "pooling": {s: {p: line(of(first, s, p), of(first, s)) for p in POOLS} for s in asked},
        "options": {},
        "widths": {},
    }
    out["pairs"] = {w: {s: line(of(w, s), of(w, STEPS[1])) for s in STEPS} for w in pairs_of(first)}

    def have(w, s):
        return any(k[:2] == (w, s) for k in done)

    for w in weights:
        out["options"][w] = {s: line(of(w, s), of(w, SHIPPED)) for s in (SHIPPED, *OPTIONS) if have(w, s)}
        if have(w, "width 8"):
            out["widths"][w] = {str(v): line(of(w, f"width {v}"), of(w, "width 8")) for v in WIDTHS}
    return tidy(out)


def table(result):
    "Markdown: samplers by cost."

    def cell(v):
        return f"{v['mean']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]"

    lines = ["| setting | evaluations a slice | AP | AP minus paper, paired |", "|---|---|---|---|"]
    for name, v in sorted(result["samplers"].items(), key=lambda kv: -kv[1]["evaluations"]):
        lines.append(f"| {name} | {v['evaluations']:,.0f} | {v['ap']['mean']:.3f} | {cell(v['difference'])} |")
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--weights",
        nargs="+",
        default=["mmccd-flair-t2", "mmccd-t2-t1", "cycle-flair-t2", "cycle-t2-t1"],
        help="the first one is asked for all samplers",
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/mmccd_settings"), help="folder for the store and the rows"
    )
    parser.add_argument("--store", type=Path, help="a store made already")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    place = args.store or args.work / "validation.zarr"
    args.work.mkdir(parents=True, exist_ok=True)
    prepare(VALIDATION, place, size=240, slices=PLACES, modalities=list(MODALITIES), jobs=0)
    done = everything(str(place), args.weights, args.work / "rows.jsonl", args.jobs, lambda s: print(s, flush=True))
    store = SliceStore(place)
    before = prepare_command("build/mmccd_settings/validation.zarr", store.recipe, store.ids)
    result = {
        "command": f"python tools/mmccd_settings.py --jobs {args.jobs}",
        "before": [before],
        "date": date.today().isoformat(),
        "device": "cpu",
        "torch": torch.__version__,
        "mmccd": mmccd.__version__,
        "phantom": phantom.VERSION,
        "seed": VALIDATION.seed,
        "rule": f"fast: fewest evaluations, at most {MOST}, with a mean AP at most {MARGIN} below that of paper, on {args.weights[0]}",
        "weights": {w: print_of(w) for w in args.weights},
        "patients": [r["id"] for r in column(done, args.weights[0], "paper", "mean")],
        **summary(done, args.weights),
    }
    write_atomic(args.out, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    print(table(result))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
