"""Does a masked cycle see what a cycle does not? python tools/mmccd_phantom.py [--jobs 2]

On the subjects of tools/cyclic_phantom.py and all directed pairs X to Y of FLAIR, T1 and T2, with the packaged detectors: the threshold on X, the cycle, the
masked U-Net (strips hidden, no diffusion) and MMCCD, beside everything positive. One threshold rule for all: 1 % of the brain of other healthy subjects
lies above it, measured on every tenth slice, as masked detectors are slow. Both stores are made in --work (those of tools/cyclic_phantom.py serve), or gone
on with; ready ones: --evidence, --calibration. Writes data/results/mmccd_phantom.json and prints the table (`table`)."""

import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import cyclic_phantom as base
import torch
from cyclic_phantom import MODALITIES, PLACES, STORES, by_size, dump, rows, table, tidy

from mmccd.cases.store import SliceStore
from mmccd.detector import EverythingPositive, load_detector
from mmccd.files import write_atomic
from mmccd.masking import MaskPlan
from mmccd.runtime import pick_device
from mmccd.slices import resize_labels
from mmccd.translate import directed_pairs
from mmccd.weights.hub import WEIGHTS, packaged_places

RESULT = Path(__file__).parent.parent / "data" / "results" / "mmccd_phantom.json"
EVERY, HOME = 10, "build/cyclic_phantom"
NAMES = {"threshold": "threshold on {x}", "cycle": "cycle", "masked": "masked U-Net", "mmccd": "MMCCD"}
CONTRASTS = (
    ("mmccd", "cycle"),
    ("mmccd", "masked"),
    ("mmccd", "threshold"),
    ("masked", "cycle"),
    ("cycle", "threshold"),
)
PROTOCOL = base.PROTOCOL + (
    f" But here, for every method alike, the calibrated threshold and the healthy shares are measured at the places {', '.join(map(str, PLACES[::EVERY]))} only "
    "(every tenth, as masked detectors are slow), so that they differ a little from those of cyclic_phantom.json; the slice with most lesion is still sought among all of "
    f"{PLACES[0]} to {PLACES[-1]}. evaluations: of a network, for the slice with most lesion, on average."
)


# the methods


def keys():
    "Every row: everything positive, then by input its threshold and its pairs."
    yield "everything positive"
    for m in MODALITIES:
        yield f"threshold {m}"
        for x, y in directed_pairs(MODALITIES):
            if x == m:
                yield from (f"{name} {x}-{y}" for name in ("cycle", "masked", "mmccd"))


def make(key, device="cpu", weights=WEIGHTS):
    "The row of that key, from the packaged detectors."
    if key == "everything positive":
        return next(base.all_methods({}))
    name, of = key.split()
    d = load_detector(packaged_places(weights)[f"{name}-{of}"]).to(device)
    extra = {} if name == "threshold" else {"trained": base.shared_training(name)}
    if hasattr(d.config, "sampler"):
        extra["sampler"] = asdict(d.config.sampler)
    return base.method(key, NAMES[name].format(x=of.upper()), d, **extra)


def evaluations(detector, brain):
    "Network evaluations for one slice, whose brain is given (1 1 h w)."
    if not hasattr(detector.config, "sampler"):
        return 2 if hasattr(detector, "translator") else 0
    c, s = detector.config, detector.config.sampler
    return MaskPlan(s.family(c.size).to(brain.device), resize_labels(brain, c.size), skip=s.skip).cost(
        s.steps if c.diffusion else 1
    )


def mean_evaluations(result, store, weights=WEIGHTS):
    "By method: the mean over the slices that were judged."
    detectors = {"everything positive": EverythingPositive()} | {
        name: load_detector(packaged_places(weights)[f"{name}-flair{'-t2' * (name != 'threshold')}"]) for name in NAMES
    }
    counts = {name: [] for name in detectors}
    for v in result["subjects"].values():
        for id, place, *_ in v["rows"]:
            data = store.dataset([id], MODALITIES[0], tumour_free=False, in_memory=False)
            brain = data.batch([k for k, r in enumerate(data.rows) if r.place == place])["brain"]
            for name, d in detectors.items():
                counts[name].append(evaluations(d, brain))
    return tidy({name: sum(n) / len(n) for name, n in counts.items() if n})


# several processes

here = {}  # what a worker keeps between two methods


def start(evidence, calibration, subjects, device, weights):
    "A worker: one thread, both stores open, the slices that count at hand."
    torch.set_num_threads(1)
    store = SliceStore(evidence)
    here.update(
        store=store,
        calibration=SliceStore(calibration),
        subjects=[base.protocol_slice(store, id) for id in subjects],
        device=device,
        weights=weights,
    )


def measure_one(task):
    "(key, healthy subjects, every) -> what was measured."
    key, healthy, every = task
    return next(
        base.measure(
            [make(key, here["device"], here["weights"])],
            here["store"],
            here["calibration"],
            here["subjects"],
            healthy,
            every,
        )
    )[1]


def in_processes(jobs, device="cpu", weights=WEIGHTS):
    "Like `in_groups`, but a method at a time, in several processes."

    def look(methods, store, calibration, subjects, healthy, every=1):
        known = store.place, calibration.place, [s.id for s in subjects], device, weights
        with ProcessPoolExecutor(jobs, get_context("spawn"), start, known) as pool:
            yield from zip(methods, pool.map(measure_one, [(m.key, healthy, every) for m in methods]))

    return look if jobs > 1 else base.in_groups


# what follows from the rows


def paired(result):
    "Method against method, by kind and pair."

    def key(name, pair):
        return f"{name} {pair.split('-')[0] if name == 'threshold' else pair}"

    def title(name):
        return NAMES[name].split(" on ")[0]

    out = {}
    for kind, found in result["kinds"].items():
        for pair in ("-".join(p) for p in directed_pairs(MODALITIES)) if found else ():
            out.setdefault(kind, {})[pair] = {
                f"{title(a)} - {title(b)}": base.difference(
                    rows(result, kind, key(a, pair)), rows(result, kind, key(b, pair))
                )
                for a, b in CONTRASTS
            }
    return tidy(out)


# how the numbers came about


def made_by(name, weights=WEIGHTS, folder=HOME):
    "The commands on the card of packaged weights, with their stores and runs in `folder`."
    card = weights / name / "README.md"
    if not card.exists():
        raise ValueError(
            f"the packaged {name} has no card that says how it was made: tools/ship_{'cycle' if name == 'cycle' else 'masked'}.py first, or --as-is for a trial"
        )
    lines = card.read_text().split("```sh\n")[1].split("\n```")[0].splitlines()
    return [re.sub(r"(?<= )(train\.zarr|calibration\.zarr|run(-\w+)?)(?= |$)", rf"{folder}/\1", line) for line in lines]


def head(args, where, device):
    "How the numbers came about, and how to get them again."
    command = (
        "python tools/mmccd_phantom.py"
        + f" --jobs {args.jobs}" * (args.jobs > 1)
        + f" --device {device}" * (device != "cpu")
        + " --as-is" * args.as_is
    )
    made = [] if args.as_is else [line for name in ("cycle", "masked", "mmccd") for line in made_by(name)]
    return (
        {"command": command, "before": list(dict.fromkeys([base.store_command(k, HOME) for k in STORES] + made))}
        | base.circumstances(where, device)
        | {"protocol": PROTOCOL, "every": EVERY}
    )


def options(argv):
    "What was asked for."
    parser = base.usual_options(__doc__, RESULT)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    return parser.parse_args(argv)


def main(argv=None):
    args = options(argv)
    torch.set_num_threads(1)
    device, (where, store, calibration) = pick_device(args.device), base.open_stores(args)
    result = head(args, where, device) | {
        "calibrated_on": f"places {', '.join(map(str, PLACES[::EVERY]))} of {calibration.describe()}"
    }
    result |= base.evaluate(
        [make(k, device) for k in keys()],
        store,
        calibration,
        lambda s: print(s, flush=True),
        EVERY,
        in_processes(args.jobs, device),
    )
    result |= {"evaluations": mean_evaluations(result, store), "paired": paired(result), "by_size": by_size(result)}
    write_atomic(args.out, dump(result).encode())
    print(table(result))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
