"""Pack a trained masked detector as the package's: python tools/ship_masked.py RUN CALIBRATION_STORE [--out mmccd/weights] [--jobs 2] [--card-only]

RUN is a folder that `mmccd train mmccd STORE --modalities flair,t1,t2 --back cycle` left, or `mmccd train masked ...`: one network that imagines in six
directed pairs, and the way back of the packaged cycle. The tensors go once, in float16, into mmccd/ (or masked/), with the card and the curve of the
training; each mmccd-X-Y/ holds its configuration with the sampler `fast` of the library, and its own threshold, calibrated on the healthy subjects of
CALIBRATION_STORE (that of tools/ship_cycle.py) at their own size; on two of the slices 70 to 89, as a masked detector is slow. The card quotes
data/results/mmccd_phantom.json, which needs the weights first: make it, then run this again with --card-only."""

import argparse
import json
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from cyclic_phantom import MODALITIES, PLACES, prepare_command
from ship_cycle import LIMITS, calibrate_on, facts, keep, scores

from mmccd.cases.store import SliceStore
from mmccd.detector import load_detector, save_variants
from mmccd.masked_diffusion import SAMPLERS, with_config
from mmccd.runtime import single_thread
from mmccd.training_loop import make_config
from mmccd.translate import directed_pairs
from mmccd.unet import count_parameters
from mmccd.weights.hub import WEIGHTS

EVERY = 10  # of the places 70 to 89
RESULT = Path(__file__).parent.parent / "data" / "results" / "mmccd_phantom.json"
SETTINGS = ("steps", "batch_size", "lr", "seed")  # of the training, where they are not those of the preset
RARER = ("validate_every", "val_slices")
Way = namedtuple("Way", "name title what")
WAYS = {
    "MMCCD": Way(
        "mmccd",
        "masked modality cycles with conditional diffusion, six ways between FLAIR, T1 and T2",
        "for X, Y among flair, t1, t2: a diffusion model imagines Y under a strip of X that is hidden, a U-Net comes back, the squared error under the strip is the anomaly map (MMCCD of Liang et al. 2023)",
    ),
    "MaskedUNet": Way(
        "masked",
        "masked modality cycles without diffusion, six ways between FLAIR, T1 and T2",
        "for X, Y among flair, t1, t2: a U-Net imagines Y under a strip of X that is hidden, another one comes back, the squared error under the strip is the anomaly map (what masks are worth without diffusion)",
    ),
}
CARD = (
    """# {way.name}: {way.title}

**For research and teaching, not a medical device.**

| | |
|---|---|
| detectors | `{way.name}-X-Y` {way.what} |
| networks | there: U-Net, {there:,} parameters, {size}x{size}, told which of the six ways; back: that of [cycle](../cycle/README.md), {back:,} parameters, not trained further; tensors in float16 |
| learned from | {data} |
| validated on | {validation} |
| steps, samples | {steps} steps of {batch} slices, {samples} slices seen, each in one way drawn at random under {masks} |
| settings | seed {seed}, AdamW {lr:g}, averaged weights ({ema}) |
| loss | squared error inside the brain, hidden or not{where}: validation {first:.4f} before, lowest {best:.4f} at step {at}, {last:.4f} at the end ([curve](curve.png), [log](log.csv)) |
| looked at | sampler `fast`: {sampler}; at most {cost:,} network evaluations a slice, masks without brain are left out{published} |
| thresholds | {fpr:.0%} of the brain of {subjects} other healthy subjects lies above ({calibrated}); in single subjects 0% to {most} |
| made | {date}, {device}, torch {torch}, {took} |

Made by:

```sh
{commands}
```

## Scores

{scores}

## Limits

"""
    + LIMITS
)


def way_of(run):
    "The detector of a run, and what it is called in the package."
    d = load_detector(run)
    way = WAYS.get(type(d).__name__)
    if way is None:
        raise ValueError(
            f"{run} holds a {type(d).__name__}: give what `mmccd train mmccd` or `mmccd train masked` left"
        )
    if d.config.modalities != MODALITIES:
        raise ValueError(f"{run} was not trained with --modalities {','.join(MODALITIES)}")
    return way, d


def check_back(detector, run, weights):
    "Is the way back that of the packaged cycle, number by number? The card says so."
    cycle = load_detector(weights / "cycle", variant="flair-t2").translator.state_dict()
    mine = detector.g.state_dict()
    if (
        not detector.config.frozen_decoder
        or cycle.keys() != mine.keys()
        or not all(torch.equal(mine[k].half(), v.half()) for k, v in cycle.items())
    ):
        raise ValueError(
            f"the way back in {run} is not that of the packaged cycle: train it with --back cycle, and ship the cycle first"
        )


def as_shipped(run):
    "The detector as it will be loaded: float16, and looked at as the library does by default."
    d = load_detector(run)
    d.load_state_dict({k: v.half().float() for k, v in d.state_dict().items()})
    return with_config(d, sampler="fast")


def threshold_of(task):
    "(run, store, pair, places) -> the calibration of that pair."
    run, store, pair, places = task
    with single_thread():
        return calibrate_on(
            as_shipped(run).for_pair(*pair), SliceStore(store).dataset(in_memory=False), places=places
        ).calibration


def thresholds(run, store, jobs=1):
    "(pair, calibration) for all pairs, in as many processes as asked for."
    pairs = directed_pairs(MODALITIES)
    tasks = [(run, store, p, PLACES[::EVERY]) for p in pairs]
    if jobs == 1:
        yield from zip(pairs, map(threshold_of, tasks))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        yield from zip(pairs, pool.map(threshold_of, tasks))


def ship(run, store, out, jobs=1):
    "Six configurations with their thresholds, and the tensors once."
    way, trained = way_of(run)
    check_back(trained, run, out if (out / "cycle").exists() else WEIGHTS)
    shipped, made = as_shipped(run), {}
    for (x, y), calibration in thresholds(run, store, jobs):
        detector = shipped.for_pair(x, y)
        detector.calibration = calibration
        made[f"{x}-{y}"] = detector
        low, high = calibration["fpr_of_subjects"]
        print(
            f"{way.name}, {x} to {y} and back: threshold {detector.threshold:.4g}, in single subjects {low:.2%} to {high:.2%} above it",
            flush=True,
        )
    save_variants(made, out / way.name, half=True)


# the card


def commands(run, way):
    "How a stranger makes the same, from the record of the run."
    about = json.loads((run / "train.json").read_text())["about"]
    data, val, of, usual = about["data"], about["validation"]["ids"], about["training"], make_config("tiny")

    def said(names):
        return "".join(f" --{n.replace('_', '-')} {of[n]}" for n in names if of[n] != getattr(usual, n))

    ends = " ".join(f"--{k} {about['config'][k]}" for k in ("input", "target"))
    return [
        prepare_command("train.zarr", data["recipe"], data["ids"] + val),
        f"mmccd train {way.name} train.zarr {ends} --modalities {','.join(about['config']['modalities'])} --back cycle{said(SETTINGS)} --val {len(val)}{said(RARER)} --out run-{way.name}",
        f"python tools/ship_masked.py run-{way.name} calibration.zarr",
    ]


def in_words(sampler, size):
    "What is hidden, and how long is thought."
    n, steps = len(sampler.family(size)), sampler.steps
    return f"{n} masks ({sampler.masks}), {steps} step{'s' * (steps != 1)} each"


def cost(detector):
    "Network evaluations a slice if no mask is left out."
    s = detector.config.sampler
    return len(s.family(detector.config.size)) * ((s.steps if detector.config.diffusion else 1) + 1)


def write_card(run, out):
    "Card, curve and log of the training, beside the tensors."
    way, _ = way_of(run)
    shipped = [load_detector(out / way.name, variant=f"{x}-{y}") for x, y in directed_pairs(MODALITIES)]
    one = shipped[0]
    c, diffusion = one.config, one.config.diffusion
    sampler = (
        in_words(c.sampler, c.size)
        if diffusion
        else f"{len(c.sampler.family(c.size))} masks ({c.sampler.masks}), each looked at once"
    )
    text = CARD.format(
        way=way,
        there=count_parameters(one.f),
        back=count_parameters(one.g),
        size=c.size,
        commands="\n".join(commands(run, way)),
        sampler=sampler,
        cost=cost(one),
        masks="a mask of its own (one strip in half of the cases, other widths and several strips too in the rest)"
        if c.augment_masks
        else "one strip",
        where=", at any time of the diffusion" if diffusion else "",
        published=f" (`paper`, as published: {cost(with_config(one, sampler=SAMPLERS['paper'])):,})"
        if diffusion
        else "",
        **facts(run, shipped),
        scores=quoted(out / way.name, way.name),
    )
    keep(run, out / way.name, text)


def quoted(shared, name):
    "The evidence about these weights, beside that about its rivals."
    rivals = (("cycle", "cycle {input}-{target}"), ("threshold on the same input", "threshold {input}"))
    if name != "masked":
        rivals = (("masked U-Net", "masked {input}-{target}"), *rivals)
    return scores(shared, name, RESULT, "tools/mmccd_phantom.py", rivals)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("store", nargs="?", help="of healthy subjects for the thresholds")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--card-only", action="store_true")
    args = parser.parse_args(argv)
    record = args.run / "train.json"
    if not record.exists():
        raise ValueError(f"{args.run} holds no training: give the folder that `mmccd train` left")
    if json.loads(record.read_text())["status"] != "done":
        raise ValueError(f"the training in {args.run} is not done: go on with it by --resume")
    if not args.card_only:
        if not args.store:
            raise ValueError("give the store of healthy subjects on which the thresholds are set")
        ship(args.run, args.store, args.out, args.jobs)
    write_card(args.run, args.out)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
