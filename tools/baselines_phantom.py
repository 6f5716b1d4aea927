"""Does any of the other methods see what a threshold or a cycle does not? python tools/baselines_phantom.py [--jobs 2]

On the subjects of tools/cyclic_phantom.py and each of FLAIR, T1 and T2, with the packaged detectors: everything positive, the threshold, the threshold on
equalised slices, autoencoders (spatial, dense, variational, denoising) and partial diffusion (Gaussian and simplex noise). Beside them stand the cycle, the
masked U-Net and MMCCD, not measured again: taken from the results of tools/cyclic_phantom.py and tools/mmccd_phantom.py, if those are of the same subjects
and of weights that are still packaged. One threshold rule for all: 1 % of the brain of other healthy subjects lies above it. Then how deep partial diffusion
goes (`depths`), how much of a lesion a network gives back, against the healthy twin (`copies`), and which healthy tissue hides it (`tissues`). Both stores are made in --work, or gone on with; ready
ones: --evidence, --calibration. Writes data/results/baselines_phantom.json and prints the table (`table`)."""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import reduce
from multiprocessing import get_context
from operator import getitem
from pathlib import Path

import cyclic_phantom as base
import mmccd_phantom as masked
import numpy as np
import torch
from cyclic_phantom import MODALITIES, STORES, by_size, dump, rows, table, tidy
from ship_baselines import BASELINES, RESULT

from mmccd.detector import fingerprint, load_detector
from mmccd.files import write_atomic
from mmccd.intensity import BACKGROUND
from mmccd.masked_diffusion import with_config
from mmccd.phantom import HEALTHY, make_phantom
from mmccd.runtime import pick_device
from mmccd.scoring import auroc, score_subjects, summarise
from mmccd.slices import resize, resize_labels, to_slices
from mmccd.translate import directed_pairs
from mmccd.unet import count_parameters
from mmccd.weights.hub import WEIGHTS, packaged_places

HOME = "build/cyclic_phantom"
NAMES = {
    "threshold": "threshold",
    "equalised": "threshold on equalised slices",
    "ae": "autoencoder, spatial",
    "ae-dense": "autoencoder, dense",
    "vae": "autoencoder, variational",
    "dae": "autoencoder, denoising",
    "ddpm": "partial diffusion, Gaussian noise",
    "ddpm-simplex": "partial diffusion, simplex noise",
}
TAKEN = {"cycle": "cyclic_phantom.json", "masked": "mmccd_phantom.json", "mmccd": "mmccd_phantom.json"}
DEPTHS, DEEP = (100, 250, 500), ("ddpm", "ddpm-simplex")
TISSUES = ("csf", "cortex", "deep", "wm")
PROTOCOL = base.PROTOCOL + (
    " cycle, masked U-Net and MMCCD were not measured again: taken_from names the file; every says that thresholds and healthy shares (not ap, auroc and dice_oracle) rest on every tenth slice "
    "there. depths: the packaged partial diffusion with another depth and the same number of evaluations, gliomas on FLAIR; shown for what it teaches, none was chosen by it. copies: the slice with "
    "most lesion of each glioma, and the same slice of its healthy twin on the patient's ruler, at the network's size. contrast: mean of (x - twin)^2 over the lesion; copied: <x_hat - twin, x - twin> / "
    "<x - twin, x - twin> over the lesion (1: the lesion comes back, 0: the healthy tissue does); inside, outside: mean of (x_hat - twin)^2 over the lesion and over the rest of the brain, where the twin "
    "differs too, as a glioma pushes. tissues: AUROC of the same gliomas' pixels against those of one tissue of the twin at a time, outside the lesion."
)


# the methods


def keys():
    "Every row that is measured: everything positive, then the methods of each input."
    yield "everything positive"
    for m in MODALITIES:
        yield from (f"{name} {m}" for name in NAMES)


def packaged(key, device="cpu", weights=WEIGHTS):
    return load_detector(packaged_places(weights)[key.replace(" ", "-")]).to(device)


def make(key, device="cpu", weights=WEIGHTS):
    "The row of that key, from the packaged detectors."
    if key == "everything positive":
        return next(base.all_methods({}))
    name = key.split()[0]
    extra = {"trained": seen(name, weights)} if name in BASELINES else {}
    return base.method(key, NAMES[name], packaged(key, device, weights), **extra)


def seen(name, weights=WEIGHTS):
    "Steps and samples of a packaged network; None where it has no log."
    return base.shared_training(name) if (weights / name / "log.csv").exists() else None


def measure_one(task):
    "(key, healthy subjects, every) -> what was measured."
    key, healthy, every = task
    here = masked.here
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
    "Like `in_groups`, but a method at a time, in several processes; the slow ones first."

    def look(methods, store, calibration, subjects, healthy, every=1):
        known = store.place, calibration.place, [s.id for s in subjects], device, weights
        order = sorted(methods, key=lambda m: not m.key.startswith("ddpm"))
        with ProcessPoolExecutor(jobs, get_context("spawn"), masked.start, known) as pool:
            found = {m.key: pool.submit(measure_one, (m.key, healthy, every)) for m in order}
            for m in methods:
                yield m, found[m.key].result()

    return look if jobs > 1 else base.in_groups


# what was measured before


def earlier(folder=base.RESULT.parent):
    "Both results beside this one."
    return {name: json.loads((folder / name).read_text()) for name in dict.fromkeys(TAKEN.values())}


def fits(result, old, file):
    "Refuse a result about others."
    for what in ("phantom", "seed", "fpr", "subjects", "left_out"):
        if result[what] != old[what]:
            raise ValueError(
                f"{file} is not of the same {what}: make it again first, or take --as-is for a trial without it"
            )
    if result["healthy"]["ids"] != old["healthy"]["ids"]:
        raise ValueError(
            f"{file} is not of the same healthy subjects: make it again first, or take --as-is for a trial without it"
        )


def take(result, old, weights=WEIGHTS):
    "A result with the rows of the cycle, the masked U-Net and MMCCD."
    for file, r in old.items():
        fits(result, r, file)
    found = {f"{name} {x}-{y}": file for name, file in TAKEN.items() for x, y in directed_pairs(MODALITIES)}
    for key, file in found.items():
        if old[file]["methods"].get(key, {}).get("fingerprint") != fingerprint(packaged(key, weights=weights)):
            raise ValueError(f"{key} in {file} is not of the packaged weights: make it again first")

    def mark(r, file):
        return {"taken_from": file, "every": r.get("every", 1)}

    def more(*way):
        return {k: reduce(getitem, way, old[f])[k] for k, f in found.items()}

    return sort(
        result
        | {
            "methods": result["methods"] | {k: v | mark(old[found[k]], found[k]) for k, v in more("methods").items()},
            "kinds": {k: v | more("kinds", k) if v else {} for k, v in result["kinds"].items()},
            "healthy": result["healthy"]
            | {k: result["healthy"][k] | more("healthy", k) for k in ("shares", "summary")},
        }
    )


def place(key, m):
    "Where a row stands: everything positive, then by input, simple methods first."
    return (
        m["input"] is not None,
        m["input"] or "",
        [*NAMES, *TAKEN, "everything"].index(key.split()[0]),
        m["target"] or "",
    )


def sort(result):
    "Rows in the order of the table, everywhere."
    order = sorted(result["methods"], key=lambda k: place(k, result["methods"][k]))

    def again(found):
        return {k: found[k] for k in order if k in found}

    healthy = {k: again(v) if isinstance(v, dict) else v for k, v in result["healthy"].items()}
    return result | {
        "methods": again(result["methods"]),
        "kinds": {k: again(v) for k, v in result["kinds"].items()},
        "healthy": healthy,
    }


# the networks


def count(detector):
    "Evaluations of a network for one slice."
    return getattr(detector.config, "looks", 2 if hasattr(detector, "translator") else 1)


def networks(old=None, weights=WEIGHTS):
    "What each network is, beside those it stands next to: parameters in all, those that were trained for it, steps, samples and evaluations a slice."
    out = {}
    for name in BASELINES:
        d = packaged(f"{name} flair", weights=weights)
        out[name] = {
            "parameters": count_parameters(d),
            "trained": count_parameters(d),
            **(seen(name, weights) or {}),
            "evaluations": count(d),
        }
    for name, file in TAKEN.items() if old else ():
        d, r = packaged(f"{name} flair-t2", weights=weights), old["mmccd_phantom.json"]
        out[name] = {
            "parameters": count_parameters(d),
            "trained": count_parameters(d) if name == "cycle" else count_parameters(d.f),
            **r["methods"][f"{name} flair-t2"]["trained"],
            "evaluations": r["evaluations"][name],
        }
    return out


# how deep partial diffusion goes


def at_depths(subjects, pairs, device="cpu", weights=WEIGHTS):
    "Each noise at each depth on FLAIR gliomas: scores, which need no threshold, and what is given back."
    out = []
    for name, depth in ((n, d) for n in DEEP for d in DEPTHS):
        detector = with_config(packaged(f"{name} flair", device, weights), depth=depth)
        m = base.method("d", "d", detector)
        s = score_subjects([base.pixels(m, s) for s in subjects])
        copied = [give_back(detector, p) for p in pairs]
        out.append(
            {
                "detector": f"{name}-flair",
                "noise": detector.config.noise,
                "depth": depth,
                "evaluations": detector.config.n_steps,
                "summary": {c: s["summary"][c] for c in ("ap", "auroc", "dice_oracle")},
                "copied": summarise([{"copied": c[0]} for c in copied if c], "copied"),
            }
        )
    return tidy(out)


# how much of a lesion comes back


def twin_of(subject, seed, modalities=MODALITIES):
    "A subject and the protocol's slice of its healthy twin, on the patient's ruler, which is read off the patient's own slice; and the twin's tissue."
    kind, index = subject.id.split("-")[1], int(subject.id.split("-")[-1])
    p, out = make_phantom(kind, seed, index, range(subject.place, subject.place + 1)), {}
    brain = subject.batch["brain"]
    for m in modalities:
        raw, x = to_slices(p.volumes[m]), subject.batch[m]
        half, centre = np.polyfit(raw[brain].numpy(), x[brain].double().numpy(), 1)
        if (half * raw[brain] + centre - x[brain]).abs().max() > 0.02:
            raise ValueError(f"{subject.id} cannot be made again as it lies in the store: another phantom made it")
        out[m] = torch.where(brain, half * to_slices(p.twin[m]).float() + centre, -1.0).float()
    return subject, out | {"tissue": to_slices(p.tissue)}


def reconstruct(detector, x, brain):
    "What a network gives back of slices at its own size."
    if hasattr(detector, "reconstruct"):
        return detector.reconstruct(x, brain, torch.Generator(detector.device).manual_seed(0))
    return detector.translate_back(detector.translate(x, brain), brain)


@torch.no_grad()
def give_back(detector, pair):
    "(copied, contrast, inside, outside) of one subject and its twin, as `PROTOCOL` says; None where the lesion is lost in the network's pixels."
    (subject, twin), c, device = pair, detector.config, detector.device

    def small(v):
        return resize(v, c.size, BACKGROUND.get(c.normalisation, -1.0)).to(device)

    x, h = small(subject.batch[c.input]), small(twin[c.input])
    brain, lesion = (resize_labels(subject.batch[k], c.size).to(device) for k in ("brain", "lesion"))
    lesion = lesion & brain
    if not lesion.any():
        return None
    back = reconstruct(detector, x, brain)
    there, here, error = (x - h)[lesion].double(), (back - h)[lesion].double(), ((back - h) ** 2).double()
    return (
        (here @ there / (there @ there)).item(),
        (there**2).mean().item(),
        error[lesion].mean().item(),
        error[brain & ~lesion].mean().item(),
    )


def copies(pairs, names, device="cpu", weights=WEIGHTS):
    "Rows of each network and input over the subjects, and their means."
    columns, out = ("copied", "contrast", "inside", "outside"), {}
    for key in names:
        detector = packaged(key, device, weights)
        out[key] = [give_back(detector, p) for p in pairs]
    some = {k: [dict(zip(columns, r)) for r in v if r] for k, v in out.items()}
    return tidy(
        {
            "subjects": [s.id for s, _ in pairs],
            "columns": columns,
            "rows": out,
            "summary": {k: {c: summarise(v, c) for c in columns} for k, v in some.items() if v},
        }
    )


def networks_and_inputs(cycles=True):
    "Whose reconstructions there are."
    for m in MODALITIES:
        yield from (f"{name} {m}" for name in BASELINES)
        if cycles:
            yield from (f"cycle {x}-{y}" for x, y in directed_pairs(MODALITIES) if x == m)


# what it is taken for


def against(m, pair):
    "AUROC of the lesion against one healthy tissue at a time; None where there is hardly any."
    (subject, twin), a = pair, m.maps(pair[0].batch)
    lesion = subject.batch["lesion"] & subject.batch["brain"]
    others = [(twin["tissue"] == 1 + HEALTHY.index(t)) & subject.batch["brain"] & ~lesion for t in TISSUES]
    return [
        auroc(*(torch.cat([v[lesion], v[o]]).numpy() for v in (a, lesion))) if o.sum() >= 20 else None for o in others
    ]


def tissues(pairs, names, device="cpu", weights=WEIGHTS):
    "Which healthy tissue hides the lesion from which method? Means over the subjects."
    found = {
        k: [dict(zip(TISSUES, against(base.method(k, k, packaged(k, device, weights)), p))) for p in pairs]
        for k in names
    }
    return tidy({k: {t: summarise(v, t) for t in TISSUES} for k, v in found.items()})


# what follows from the rows


def paired(result):
    "Each baseline less the plain threshold, and less each cycle of its input."
    out = {}
    for kind, found in result["kinds"].items():
        for m in MODALITIES if found else ():
            rivals = [f"threshold {m}", *(k for k in found if k.startswith(f"cycle {m}-"))]
            out.setdefault(kind, {})[m] = {
                f"{name} - {rival.removesuffix(f' {m}')}": base.difference(
                    rows(result, kind, f"{name} {m}"), rows(result, kind, rival)
                )
                for name in ("equalised", *BASELINES)
                for rival in rivals
            }
    return tidy(out)


# how the numbers came about


def made_by(name, weights=WEIGHTS, folder=HOME):
    "The commands on a card."
    if not (weights / name / "README.md").exists():
        raise ValueError(
            f"the packaged {name} has no card that says how it was made: tools/ship_baselines.py first, or --as-is for a trial"
        )
    return masked.made_by(name, weights, folder)


def head(args, where, device):
    "How the numbers came about, and how to get them again."
    command = (
        "python tools/baselines_phantom.py"
        + f" --jobs {args.jobs}" * (args.jobs > 1)
        + f" --device {device}" * (device != "cpu")
        + " --as-is" * args.as_is
    )
    made = (
        []
        if args.as_is
        else [
            *(line for name in BASELINES for line in made_by(name)),
            f"python tools/ship_baselines.py equalised {HOME}/calibration.zarr",
        ]
    )
    return (
        {"command": command, "before": list(dict.fromkeys([base.store_command(k, HOME) for k in STORES] + made))}
        | base.circumstances(where, device)
        | {"protocol": PROTOCOL}
    )


def options(argv):
    "What was asked for."
    parser = base.usual_options(__doc__, RESULT)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--weights", type=Path, default=WEIGHTS, help="for a trial: a folder of detectors instead of the packaged ones"
    )
    return parser.parse_args(argv)


def beside(result, as_is, weights=WEIGHTS):
    "(the result with the earlier rows, what they were taken from); a trial goes without them if they do not fit."
    old = earlier()
    try:
        return take(result, old, weights), old
    except (ValueError, OSError) as error:
        if not as_is:
            raise
        print(f"without cycle, masked U-Net and MMCCD: {error}", file=sys.stderr)
        return sort(result), None


def words(result):
    "The tables, in Markdown."

    def number(s, digits=2):
        return (
            "-"
            if s["mean"] is None
            else f"{s['mean']:.{digits}f}"
            + ("" if s["low"] is None else f" [{s['low']:.{digits}f}, {s['high']:.{digits}f}]")
        )

    notes = [
        "",
        *(
            f"{name}: from {r['taken_from']}"
            + f", healthy shares there on every {r['every']}th slice" * (r["every"] > 1)
            + "."
            for name, r in {k.split()[0]: m for k, m in result["methods"].items() if "taken_from" in m}.items()
        ),
    ]
    deep = ["", "| FLAIR gliomas | depth | AP | Dice (oracle) | lesion given back |", "|---|---|---|---|---|"]
    deep += [
        f"| {d['noise']} | {d['depth']} | {number(d['summary']['ap'])} | {number(d['summary']['dice_oracle'])} | {number(d['copied'])} |"
        for d in result["depths"]
    ]
    copied = [
        "",
        "| network, input | lesion given back | error inside / contrast | error outside |",
        "|---|---|---|---|",
    ]
    copied += [
        f"| {k} | {number(s['copied'])} | {s['inside']['mean']:.3f} / {s['contrast']['mean']:.3f} | {number(s['outside'], 4)} |"
        for k, s in result["copies"]["summary"].items()
    ]
    ranked = ["", f"| AUROC of gliomas against | {' | '.join(TISSUES)} |", "|---" * (1 + len(TISSUES)) + "|"]
    ranked += [f"| {k} | {' | '.join(number(v[t]) for t in TISSUES)} |" for k, v in result["tissues"].items()]
    return "\n".join([table(result), *notes, *deep, *copied, *ranked])


def main(argv=None):
    args = options(argv)
    torch.set_num_threads(1)
    if args.weights != WEIGHTS and not args.as_is:
        raise ValueError("other weights than the packaged ones are for a trial: add --as-is")
    device, (where, store, calibration) = pick_device(args.device), base.open_stores(args)
    start, say = head(args, where, device), lambda s: print(s, flush=True)
    methods = [make(k, device, args.weights) for k in keys()]
    result = (
        start
        | {"calibrated_on": f"places {base.PLACES[0]} to {base.PLACES[-1]} of {calibration.describe()}"}
        | base.evaluate(methods, store, calibration, say, look=in_processes(args.jobs, device, args.weights))
    )
    result, old = beside(result, args.as_is, args.weights)
    gliomas = [base.protocol_slice(store, r[0]) for r in result["subjects"]["glioma"]["rows"]]
    pairs = [twin_of(s, STORES["evidence"][0].seed) for s in gliomas]
    result |= {
        "networks": networks(old, args.weights),
        "paired": paired(result),
        "by_size": by_size(result),
        "depths": at_depths(gliomas, pairs, device, args.weights),
        "copies": copies(pairs, list(networks_and_inputs(bool(old))), device, args.weights),
        "tissues": tissues(
            pairs, [*(f"threshold {m}" for m in MODALITIES), *networks_and_inputs(bool(old))], device, args.weights
        ),
    }
    write_atomic(args.out, dump(result).encode())
    print(words(result))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
