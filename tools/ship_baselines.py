"""Pack a trained baseline as the package's: python tools/ship_baselines.py RUN CALIBRATION_STORE [--out mmccd/weights] [--card-only]

RUN is a folder that `mmccd train METHOD STORE --input flair --modalities flair,t1,t2` left, METHOD one of ae, ae-dense, vae, dae, ddpm and ddpm-simplex: one
network that is told which modality it sees. The tensors go once, in float16, into METHOD/, with the card and the curve of the training; each METHOD-X/ holds
its configuration and its own threshold, calibrated on the healthy subjects of CALIBRATION_STORE (that of tools/ship_cycle.py) at their own size. Instead of
RUN, the word equalised packs the thresholds on equalised slices, which nobody trains. All of a detector's folders are made aside and then put in their places.
The card quotes data/results/baselines_phantom.json, which needs the weights first: make it, then run this again with --card-only."""

import argparse
import json
import sys
from collections import namedtuple
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from cyclic_phantom import MODALITIES, PLACES, prepare_command
from ship_cycle import KINDS, LIMITS, calibrate_on, facts, keep
from ship_masked import RARER, SETTINGS

from mmccd.baselines import Equalised, Reconstruction
from mmccd.cases.store import SliceStore
from mmccd.detector import fingerprint, load_detector, save_variants
from mmccd.registry import METHODS, new_detector
from mmccd.training_loop import make_config
from mmccd.unet import count_parameters
from mmccd.weights.hub import WEIGHTS

RESULT = Path(__file__).parent.parent / "data" / "results" / "baselines_phantom.json"
BASELINES = tuple(
    m.name for m in METHODS.values() if m.trainable and m.cls.startswith("mmccd.baselines:")
)  # in the order of the training's list
Way = namedtuple("Way", "title what loss limits")
WAYS = {
    "ae": Way(
        "autoencoder with a spatial middle",
        "the slice is squeezed through {latent} numbers at each of {places} places and drawn again; the squared error is the anomaly map",
        "squared error inside the brain",
        "A middle with places can carry what it never saw: part of a lesion is given back, and that part is not found. What is lost is detail, healthy detail too, so folds and edges glow.",
    ),
    "ae-dense": Way(
        "autoencoder with a dense middle",
        "the slice is squeezed through {latent} numbers without places and drawn again; the squared error is the anomaly map",
        "squared error inside the brain",
        "A middle of so few numbers gives back a blurred brain: folds and edges glow, healthy ones too, and hide what is small.",
    ),
    "vae": Way(
        "variational autoencoder",
        "the slice is squeezed through {latent} numbers, each of them a normal distribution, and drawn again from their means; the squared error is the anomaly map",
        "squared error inside the brain, plus what the middle costs in nats (the negative ELBO, for a decoder that grants a pixel a standard deviation of {sigma:g})",
        "It gives back a still more blurred brain than a plain autoencoder: folds and edges glow, healthy ones too, and hide what is small.",
    ),
    "dae": Way(
        "denoising autoencoder",
        "a U-Net that learned to take coarse noise away is given the slice as it is; the squared error is the anomaly map (Kascenas et al. 2022)",
        "squared error inside the brain, from slices under coarse noise ({grid} numbers along a side, standard deviation {sigma:g})",
        "It finds what resembles the noise it learned from, in size and brightness. Its bridges carry everything else, lesions too, past the middle.",
    ),
    **{
        name: Way(
            f"partial diffusion with {noise} noise",
            "{depth} of {steps} steps of "
            + noise
            + " noise are put on the slice, and a model of healthy brains takes them away in {looks} steps of DDIM; the squared error is the anomaly map (AnoDDPM, Wyatt et al. 2022)",
            "squared error of the guessed noise inside the brain (Ho et al. 2020), so that it cannot be compared with the others'",
            "Little noise leaves the lesion standing, much noise makes another brain of the healthy part: how far to go ({depth} steps) was not tuned. The result hangs on the noise that is drawn; the same seed draws the same.",
        )
        for name, noise in (("ddpm", "Gaussian"), ("ddpm-simplex", "simplex"))
    },
}
CARD = """# {name}: {title}, one network for FLAIR, T1 and T2

**For research and teaching, not a medical device.**

| | |
|---|---|
| detectors | `{name}-X` for X among flair, t1, t2: {what} |
| network | {parameters:,} parameters, {size}x{size}, told which of the three; tensors in float16 |
| learned from | {data} |
| validated on | {validation} |
| steps, samples | {steps} steps of {batch} slices, {samples} slices seen, each in one modality drawn at random |
| settings | seed {seed}, AdamW {lr:g}, averaged weights ({ema}) |
| loss | {loss}: validation {first:.4f} before, lowest {best:.4f} at step {at}, {last:.4f} at the end ([curve](curve.png), [log](log.csv)) |
| thresholds | {fpr:.0%} of the brain of {subjects} other healthy subjects lies above ({calibrated}); in single subjects 0% to {most} |
| made | {date}, {device}, torch {torch}, {took} |

Made by:

```sh
{commands}
```

## Scores

{scores}

## Limits

{limits}

""" + LIMITS.replace("A cycle gives back part of what it never saw (chapter 09), so a dark map", "A dark map")


def name_of(detector):
    "What `mmccd train` calls such a detector."
    for name in BASELINES:
        asked = new_detector(name)
        said = {k for m in METHODS.values() for k in m.config if hasattr(asked.config, k)}
        if type(detector) is type(asked) and all(getattr(detector.config, k) == getattr(asked.config, k) for k in said):
            return name
    if not isinstance(detector, Reconstruction):
        raise ValueError(f"it holds a {type(detector).__name__}, none of {', '.join(BASELINES)}")
    raise ValueError(f"its settings are those of none of {', '.join(BASELINES)}")


def read_run(run):
    "(name, the detector as it will be loaded) of a training that is done."
    record = run / "train.json"
    if not record.exists():
        raise ValueError(f"{run} holds no training: give the folder that `mmccd train` left")
    if json.loads(record.read_text())["status"] != "done":
        raise ValueError(f"the training in {run} is not done: go on with it by --resume")
    d = load_detector(run)
    try:
        name = name_of(d)
    except ValueError as error:
        raise ValueError(f"cannot pack {run}: {error}")
    if d.config.modalities != MODALITIES:
        raise ValueError(f"{run} was not trained with --modalities {','.join(MODALITIES)}")
    d.load_state_dict({k: v.half().float() for k, v in d.state_dict().items()})
    return name, d


# the detectors


def calibrated(detector, store):
    "The same with its threshold, set in slices 70 to 89 alone, as partial diffusion is slow."
    d = calibrate_on(detector, SliceStore(store).dataset(in_memory=False), places=PLACES)
    d.calibration["data"] = d.calibration["data"].replace(", ".join(map(str, PLACES)), f"{PLACES[0]} to {PLACES[-1]}")
    low, high = d.calibration["fpr_of_subjects"]
    print(
        f"{type(d).__name__} on {d.config.input}: threshold {d.threshold:.4g}, in single subjects {low:.2%} to {high:.2%} above it",
        flush=True,
    )
    return d


def put(made, out):
    "Each folder in its place, the old one away first; the shared tensors go ahead of what needs them."
    for folder in sorted(made.iterdir()):
        if (out / folder.name).exists():
            (out / folder.name).rename(made.parent / f"old-{folder.name}")
        folder.rename(out / folder.name)


def ship(what, store, out):
    "Make all folders of a detector aside, and put them in their places when nothing can go wrong any more."
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file, and detectors are kept in folders")
    name, trained = ("equalised", None) if what == "equalised" else read_run(Path(what))
    found = [calibrated(trained.for_modality(m) if trained else Equalised(input=m), store) for m in MODALITIES]
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".ship-") as aside:
        made = Path(aside) / "new"
        save_variants({d.config.input: d for d in found}, made / name, half=True)
        if trained:
            write_card(Path(what), name, made)
        put(made, out)


# the card


def commands(run, name):
    "How a stranger makes the same, from the record of the run."
    about = json.loads((run / "train.json").read_text())["about"]
    data, val, of, usual, c = (
        about["data"],
        about["validation"]["ids"],
        about["training"],
        make_config("tiny"),
        about["config"],
    )

    def said(names):
        return "".join(f" --{n.replace('_', '-')} {of[n]}" for n in names if of[n] != getattr(usual, n))

    return [
        prepare_command("train.zarr", data["recipe"], data["ids"] + val),
        f"mmccd train {name} train.zarr --input {c['input']} --modalities {','.join(c['modalities'])}{said(SETTINGS)} --val {len(val)}{said(RARER)} --out run-{name}",
        f"python tools/ship_baselines.py run-{name} calibration.zarr",
    ]


def scores(name, weights):
    "The evidence as a table, if it was made with these very weights."
    r = json.loads(RESULT.read_text()) if RESULT.exists() else {"methods": {}}
    if any(
        r["methods"].get(f"{name} {m}", {}).get("fingerprint") != fingerprint(load_detector(weights / name, variant=m))
        for m in MODALITIES
    ):
        return "Not measured yet: `python tools/baselines_phantom.py`."

    def mean(kind, key):
        return f"{r['kinds'][kind][key]['summary']['ap']['mean']:.2f}"

    lines = [
        "| detector | AP glioma | AP MS | AP infarct | threshold on the same input | healthy brain above the threshold | lesion given back |",
        "|---" * 7 + "|",
    ]
    for m in MODALITIES:
        lines.append(
            f"| {name}-{m} | {' | '.join(mean(k, f'{name} {m}') for k in KINDS)} | {', '.join(mean(k, f'threshold {m}') for k in KINDS)} | "
            f"{r['healthy']['summary'][f'{name} {m}']['mean']:.1%} | {r['copies']['summary'][f'{name} {m}']['copied']['mean']:.0%} |"
        )
    n = ", ".join(f"{len(r['subjects'][k]['rows'])} {k}" for k in KINDS)
    return "\n".join(lines) + (
        f"\n\nAverage precision, slice protocol, phantoms of seed {r['seed']['evidence']} ({n}, {len(r['healthy']['ids'])} healthy), {r['date']}, `{r['command']}`. "
        "Given back: the share of a glioma's contrast to the healthy twin that is in the reconstruction (100%: the lesion is copied, 0%: the healthy tissue is back)."
    )


def write_card(run, name, weights):
    "Card, curve and log of the training, beside the tensors."
    shipped = [load_detector(weights / name, variant=m) for m in MODALITIES]
    one, way = shipped[0], WAYS[name]
    c = vars(one.config) | {"places": "x".join(map(str, middle(one)))}
    known = facts(run, shipped) | {"parameters": count_parameters(one)}
    text = CARD.format(
        name=name,
        title=way.title,
        what=way.what.format(**c),
        loss=way.loss.format(**c),
        limits=way.limits.format(**c),
        size=one.config.size,
        commands="\n".join(commands(run, name)),
        scores=scores(name, weights),
        **known,
    )
    keep(run, weights / name, text)


@torch.no_grad()
def middle(detector):
    "Places along both sides of an autoencoder's middle; none where it has no places."
    if not hasattr(detector, "middle"):
        return ()
    size = detector.config.size
    return tuple(detector.encode(torch.zeros(1, 1, size, size), torch.zeros(1, dtype=torch.long))[0].shape[2:])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="folder of a training, or the word equalised")
    parser.add_argument("store", nargs="?", help="of healthy subjects for the thresholds")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--card-only", action="store_true")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.card_only:
        if args.run == "equalised":
            raise ValueError("the thresholds on equalised slices have no card")
        name, _ = read_run(Path(args.run))
        if not (args.out / name).is_dir():
            raise ValueError(f"{name} is not in {args.out} yet: pack it first, without --card-only")
        return write_card(Path(args.run), name, args.out)
    if not args.store:
        raise ValueError("give the store of healthy subjects on which the thresholds are set")
    ship(args.run, args.store, args.out)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
