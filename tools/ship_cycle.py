"""Pack a trained translator as the package's cycle detectors: python tools/ship_cycle.py RUN CALIBRATION_STORE [--out mmccd/weights] [--card-only]

RUN is a folder that `mmccd train cycle STORE --modalities flair,t1,t2` left: one network for six directed pairs. The tensors go once, in float16, into
cycle/, with the card and the curve of the training; each cycle-X-Y/ holds its configuration and its own threshold, calibrated on the healthy subjects of
CALIBRATION_STORE (`mmccd prepare phantom calibration.zarr --healthy 20 --seed 403 --whole-heads --slices 30:125 --size 240 --modalities flair,t1,t2`), at
their own size as `mmccd detect` does it. The card quotes data/results/cyclic_phantom.json, which needs the weights first: make it, then run this again with --card-only."""

import argparse
import csv
import json
import shutil
from datetime import date
from pathlib import Path

import torch

from mmccd.cases.store import SliceStore
from mmccd.cycle import CyclicUNet
from mmccd.detection.maps import map_slices
from mmccd.detector import fingerprint, healthy_threshold, load_detector, save_variants
from mmccd.files import write_atomic
from mmccd.runtime import duration
from mmccd.slices import SLICE_RANGE
from mmccd.translate import directed_pairs
from mmccd.weights.hub import packaged_places

MODALITIES, KINDS = ("flair", "t1", "t2"), ("glioma", "ms", "infarct")
RESULT = Path(__file__).parent.parent / "data" / "results" / "cyclic_phantom.json"
LIMITS = """It was shown healthy made-up heads only, adult anatomy and the contrasts of spin echo, FLAIR and T1-weighted images as the phantom draws them. What it was not shown it calls abnormal: other sequences, children, surgery, motion, poor skull
stripping. Pixels are as coarse as 64 to a side: a lesion of a few millimetres is lost. A cycle gives back part of what it never saw (chapter 09), so a dark map is no sign of health. The threshold keeps its promise on average over heads like
those above, not for a single one, and not for real scans. No real patient was used.
"""
CARD = (
    """# cycle: one U-Net for six ways between FLAIR, T1 and T2

**For research and teaching, not a medical device.**

| | |
|---|---|
| detectors | `cycle-X-Y` for X, Y among flair, t1, t2: X to Y and back, the squared error is the anomaly map (Cyclic U-Net of Liang et al. 2023) |
| network | U-Net, {parameters:,} parameters, 64x64, told which of the six ways; tensors in float16 |
| learned from | {data} |
| validated on | {validation} |
| steps, samples | {steps} steps of {batch} slices, {samples} slices seen, each in one way drawn at random |
| settings | seed {seed}, AdamW {lr:g}, averaged weights ({ema}) |
| loss | squared error inside the brain: validation {first:.4f} before, lowest {best:.4f} at step {at}, {last:.4f} at the end ([curve](curve.png), [log](log.csv)) |
| thresholds | {fpr:.0%} of the brain of {subjects} other healthy subjects lies above ({calibrated}); over whole heads it is {whole}, in single subjects (slices 70 to 89) 0% to {most} |
| made | {date}, {device}, torch {torch}, {took} |

Made by:

```sh
mmccd prepare phantom train.zarr --healthy 112 --seed 401 --whole-heads --slices 30:125 --size 64 --modalities flair,t1,t2
mmccd train cycle train.zarr --input flair --target t2 --modalities flair,t1,t2 --steps {steps} --lr {lr:g} --val 12 --out run
python tools/ship_cycle.py run calibration.zarr
```

## Scores

{scores}

## Limits

"""
    + LIMITS
)


@torch.no_grad()
def calibrate_on(detector, data, fpr=0.01, places=None):
    "A threshold with the share `fpr` of the brain above it in slices 70 to 89, as the plain thresholds have it; and the share in whole heads, and in each subject. `places`: look at these only."
    values, chosen = [], [k for k, r in enumerate(data.rows) if places is None or r.place in places]
    if gone := sorted(set(places or ()) - {r.place for r in data.rows}):
        raise ValueError(f"the store has no slices at place {gone[0]}; prepare them")
    for i in range(0, len(chosen), 16):
        b = data.batch(chosen[i : i + 16])
        a = map_slices(detector, b[detector.config.input], b["brain"])
        values += [s[m] for s, m in zip(a, b["brain"])]
    middle = [(v, data.rows[k].id) for v, k in zip(values, chosen) if data.rows[k].place in SLICE_RANGE]
    where = (
        f"axial slices {SLICE_RANGE[0]} to {SLICE_RANGE[-1]}"
        if places is None
        else f"axial slices {', '.join(map(str, places))}"
    )
    everything = torch.cat([v for v, _ in middle])
    h = healthy_threshold(everything, fpr)

    def above(parts):
        return (torch.cat(parts) > h).double().mean().item()

    shares = [above([v for v, r in middle if r == id]) for id in dict.fromkeys(r for _, r in middle)]
    detector.calibration = (
        {
            "threshold": h,
            "fpr": fpr,
            "fpr_reached": above([everything]),
            "pixels": len(everything),
            "slices": len(middle),
            "subjects": len(shares),
            "fpr_of_subjects": [min(shares), max(shares)],
        }
        | ({"fpr_whole_heads": above(values)} if places is None else {})
        | {"data": f"{where} of {data.describe()}", "date": date.today().isoformat()}
    )
    return detector


def scores(
    shared,
    name="cycle",
    file=RESULT,
    tool="tools/cyclic_phantom.py",
    rivals=(("threshold on the same input", "threshold {input}"),),
):
    "The evidence as a table, if it was made with these very weights. `rivals`: heading, and which other row of the evidence stands below it."
    r = json.loads(file.read_text()) if file.exists() else {"methods": {}}
    names = {f"{name} {x}-{y}": f"{name}-{x}-{y}" for x, y in directed_pairs(MODALITIES)}
    places = packaged_places(shared.parent)
    now = {k: load_detector(places[v]) for k, v in names.items()}
    if any(r["methods"].get(k, {}).get("fingerprint") != fingerprint(d) for k, d in now.items()):
        return f"Not measured yet: `python {tool}`."
    heads = [
        "detector",
        "AP glioma",
        "AP MS",
        "AP infarct",
        *(h for h, _ in rivals),
        "healthy brain above the threshold",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def mean(kind, key):
        return f"{r['kinds'][kind][key]['summary']['ap']['mean']:.2f}"

    for key, title in names.items():
        others = (k.format(**r["methods"][key]) for _, k in rivals)
        lines.append(
            f"| {title} | {' | '.join(mean(k, key) for k in KINDS)} | {' | '.join(', '.join(mean(k, o) for k in KINDS) for o in others)} | {r['healthy']['summary'][key]['mean']:.1%} |"
        )
    n = ", ".join(f"{len(r['subjects'][k]['rows'])} {k}" for k in KINDS)
    return (
        "\n".join(lines)
        + f"\n\nAverage precision, slice protocol, phantoms of seed {r['seed']['evidence']} ({n}, {len(r['healthy']['ids'])} healthy), {r['date']}, `{r['command']}`."
    )


def facts(run, detectors):
    "What the record, the log and the thresholds of a run say, for its card."
    record = json.loads((run / "train.json").read_text())
    about, last = record["about"], record["result"]
    t, c = about["training"], detectors[0].calibration
    val = {int(r["step"]): float(r["val_loss"]) for r in csv.DictReader((run / "log.csv").open()) if r["val_loss"]}
    at = min(val, key=val.get)
    return dict(
        parameters=sum(p.numel() for p in detectors[0].parameters()),
        data=about["data"]["what"],
        validation=about["validation"]["what"],
        steps=t["steps"],
        batch=t["batch_size"],
        samples=f"{last['samples']:,}",
        seed=t["seed"],
        lr=t["lr"],
        ema=t["ema"],
        first=val[0],
        best=val[at],
        at=at,
        last=last["val_loss"],
        fpr=c["fpr"],
        subjects=c["subjects"],
        calibrated=c["data"],
        most=f"{max(d.calibration['fpr_of_subjects'][1] for d in detectors):.0%}",
        date=record["date"],
        device=record["device"],
        torch=record["torch"],
        took=duration(last["seconds"]),
    )


def write_card(run, shared):
    "Card, curve and log of the training, beside the tensors."
    cycles = [CyclicUNet.from_pretrained(shared, f"{x}-{y}") for x, y in directed_pairs(MODALITIES)]
    shares = [d.calibration["fpr_whole_heads"] for d in cycles]
    keep(
        run,
        shared,
        CARD.format(**facts(run, cycles), whole=f"{min(shares):.1%} to {max(shares):.1%}", scores=scores(shared)),
    )


def keep(run, shared, card):
    "The card beside the tensors, with curve and log."
    write_atomic(shared / "README.md", card.encode())
    for name in ("curve.png", "log.csv"):
        shutil.copy(run / name, shared / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("store", nargs="?", help="of healthy subjects for the thresholds")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "mmccd" / "weights")
    parser.add_argument("--card-only", action="store_true")
    args = parser.parse_args()
    if json.loads((args.run / "train.json").read_text())["status"] != "done":
        raise SystemExit(f"the training in {args.run} is not done: go on with it by --resume")
    if not args.card_only:
        if not args.store:
            raise SystemExit("give the store of healthy subjects on which the thresholds are set")
        trained = CyclicUNet.from_pretrained(args.run)
        trained.load_state_dict({k: v.half().float() for k, v in trained.state_dict().items()})  # as it will be loaded
        data = SliceStore(args.store).dataset(in_memory=False)
        made = {}
        for x, y in directed_pairs(MODALITIES):
            detector = made[f"{x}-{y}"] = calibrate_on(trained.for_pair(x, y), data)
            print(
                f"{x} to {y} and back: threshold {detector.threshold:.4g}, in single subjects {' to '.join(f'{v:.2%}' for v in detector.calibration['fpr_of_subjects'])} above it, {detector.calibration['fpr_whole_heads']:.2%} of whole heads",
                flush=True,
            )
        save_variants(made, args.out / "cycle", half=True)
    write_card(args.run, args.out / "cycle")


if __name__ == "__main__":
    main()
