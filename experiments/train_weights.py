"""Train the packaged weights of a method, set their thresholds and pack them, with their card.

    python experiments/train_weights.py cycle                 into mmccd/weights/cycle
    python experiments/train_weights.py threshold             what has nothing to learn: thresholds alone
    python experiments/train_weights.py cycle --card-only     the card again, once the scores that it quotes are made

experiments/weights.yaml says how. Stores and runs are kept in --work: an interrupted training goes on, and a finished
one is not repeated. `masked` and `mmccd` take the decoder of the packaged `cycle`, so make that first. Tensors are
packed as float16, once for all pairs or modalities; each of these has a threshold of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from command import run_script
from evidence import KINDS, MODALITIES, PAIRS, in_parallel

import mmccd
from mmccd import phantom
from mmccd.baselines import Equalised
from mmccd.cases.case import Case
from mmccd.cases.store import SliceStore
from mmccd.cli import main as mmccd_command
from mmccd.detection.maps import map_slices
from mmccd.detector import (
    Detector,
    Threshold,
    calibrate,
    fingerprint,
    healthy_threshold,
    load_detector,
    save_detector,
    save_variants,
    with_config,
)
from mmccd.error_map import ErrorMapConfig, ReconstructionDetector, fit_expected_error
from mmccd.files import write_atomic
from mmccd.intensity import BACKGROUND
from mmccd.masked_translation import Sampler
from mmccd.runtime import duration, evenly_spaced, single_thread
from mmccd.schemas import checked
from mmccd.slices import SLICE_RANGE, resize, resize_labels
from mmccd.tables import markdown_table
from mmccd.training.log import curve_figure
from mmccd.unet import count_parameters
from mmccd.viz import save_png
from mmccd.weights.hub import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
FPR = 0.01


@dataclass(frozen=True)
class Settings:
    """How the weights of a method are made (`train`, `places`, `recipe`, `rivals`), and the words of its card.

    Attributes:
        train: Options of `mmccd train`.
        store: Which of the stores it learns from.
        start: The method whose finished run it begins with (`--start`); empty: with weights drawn at random.
        samplers: Fields of the `Sampler` of a masked detector by variant ("flair-t1"), under "" those of all others.
        places: Axial places whose slices set the thresholds; empty: those of whole heads, of which 70 to 89 count.
        recipe: The result whose scores the card quotes.
        rivals: Rows beside them, by heading.
        error: Fields of an `ErrorMapConfig`: how the error becomes the map; where it says so, the expected error is
            learned from the healthy heads of the store `expect`.
        expect_slices: How many of their slices it is learned from.
    """

    title: str
    train: str
    places: list[int]
    recipe: str
    rivals: dict[str, str]
    what: str
    network: str
    drawn: str
    loss: str
    limits: str
    sampler: str = ""
    store: str = "train"
    start: str = ""
    samplers: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    expect_slices: int = 240


@dataclass(frozen=True)
class Plan:
    """What weights.yaml holds."""

    stores: dict[str, str]
    limits: str
    methods: dict[str, Settings]


def load_settings() -> tuple[dict[str, Settings], dict[str, str], str]:
    """The settings by method, the options of both stores, and the limits that all cards name."""
    file = ROOT / "experiments" / "weights.yaml"
    found = checked(yaml.safe_load(file.read_text()), Plan, file, "correct that key")
    return found.methods, found.stores, found.limits


# training


def commands(method: str, settings: Settings, stores: dict[str, str], folder: str = "") -> list[str]:
    """The commands that make the store and the run of training, in a folder whose name ends in a slash."""
    start = f" --start {folder}run-{settings.start}" * bool(settings.start)
    return [
        f"mmccd prepare phantom {folder}{settings.store}.zarr {stores[settings.store]}",
        f"mmccd train {method} {folder}{settings.store}.zarr {settings.train}{start} --out {folder}run-{method}",
    ]


def run_command(line: str) -> None:
    """Run one `mmccd` command in this process.

    Raises:
        ValueError: It failed; it has said why.
    """
    if mmccd_command(shlex.split(line)[1:]):
        raise ValueError(f"this command failed: {line}")


def train(method: str, settings: Settings, stores: dict[str, str], work: Path) -> Path:
    """The folder of the finished run, trained now or before."""
    run = work / f"run-{method}"
    record = run / "train.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    if known.get("status") != "done":
        prepare, learn = commands(method, settings, stores, f"{work}/")
        run_command(prepare)
        run_command(learn + " --resume" * bool(known))
    return run


def rounded(d: Detector) -> Detector:
    """The detector itself, its tensors rounded to float16."""
    d.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in d.state_dict().items()})
    return d


def as_packed(run: Path) -> Detector:
    """A trained detector as it will be loaded: float16, and with the sampler `fast`."""
    d = rounded(load_detector(run))
    return with_config(d, sampler="fast") if hasattr(d.config, "sampler") else d


def sampler_of(settings: Settings, name: str) -> Sampler | None:
    """The sampler of a variant, where the settings name one."""
    fields = settings.samplers.get(name, settings.samplers.get(""))
    return None if fields is None else Sampler(**fields)


def with_error_map(detector: Detector, settings: Settings, stores: dict[str, str], work: Path) -> Detector:
    """The detector with the error map of its settings, its expected error learned and rounded as it will be packed."""
    if not settings.error:
        return detector
    detector = with_config(detector, error=ErrorMapConfig(**settings.error))
    if not isinstance(detector, ReconstructionDetector) or not detector.config.error.expected:
        return detector
    run_command(f"mmccd prepare phantom {work}/expect.zarr {stores['expect']}")
    data = SliceStore(work / "expect.zarr").dataset(in_memory=False)
    batch = data.batch(evenly_spaced(len(data), settings.expect_slices))
    ready = variants_with_samplers(detector, settings)
    with single_thread():
        fit_expected_error(ready, batch, torch.Generator().manual_seed(0))
    detector.load_state_dict(ready.state_dict())
    return rounded(detector)


def variants_with_samplers(detector: ReconstructionDetector, settings: Settings) -> ReconstructionDetector:
    """The same detector, whose `for_variant` gives each variant the sampler that it will be packed with."""

    class Ready(type(detector)):
        def for_variant(self, variant):
            one, sampler = super().for_variant(variant), sampler_of(settings, "-".join(variant))
            return with_config(one, sampler=sampler) if sampler else one

    ready = Ready(detector.config)
    ready.load_state_dict(detector.state_dict())
    return ready


def variant(detector: Detector, name: str) -> Detector:
    """The detector of one pair ("flair-t1") or of one modality ("flair")."""
    return detector.for_pair(*name.split("-")) if "-" in name else detector.for_modality(name)


def variant_names(detector: Detector) -> list[str]:
    """All pairs, or all modalities, of the networks."""
    return ["-".join(p) for p in PAIRS] if hasattr(detector.config, "target") else list(MODALITIES)


# thresholds


@torch.no_grad()
def calibration_of(detector: Detector, store: Path, places: list[int]) -> dict[str, Any]:
    """A threshold with 1 % of the brain of healthy subjects above it, as `Detector.calibration` keeps it.

    Args:
        detector: Need not be calibrated.
        store: Healthy subjects at their own size, as `mmccd detect` sees them.
        places: Axial places that are measured; empty: all, and of these 70 to 89 set the threshold.

    Raises:
        ValueError: The store has no slice at one of the places.
    """
    data, values = SliceStore(store).dataset(in_memory=False), []
    if gone := sorted(set(places) - {r.place for r in data.rows}):
        raise ValueError(f"the store has no slices at place {gone[0]}; prepare them")
    chosen = [k for k, r in enumerate(data.rows) if not places or r.place in places]
    for i in range(0, len(chosen), 16):
        b = data.batch(chosen[i : i + 16])
        a = map_slices(detector, b[detector.config.input], b["brain"])
        values += [s[m] for s, m in zip(a, b["brain"])]
    middle = [(v, data.rows[k].id) for v, k in zip(values, chosen) if data.rows[k].place in SLICE_RANGE]
    pixels = torch.cat([v for v, _ in middle])
    h = healthy_threshold(pixels, FPR)

    def above(parts: list[torch.Tensor]) -> float:
        return (torch.cat(parts) > h).double().mean().item()

    shares = [above([v for v, r in middle if r == id]) for id in dict.fromkeys(r for _, r in middle)]
    few = places and len(places) < len(SLICE_RANGE)
    where = ", ".join(map(str, places)) if few else f"{SLICE_RANGE[0]} to {SLICE_RANGE[-1]}"
    counts = {"pixels": len(pixels), "slices": len(middle), "subjects": len(shares)}
    whole = {} if places else {"fpr_whole_heads": above(values)}
    about = {"data": f"axial slices {where} of {data.describe()}", "date": date.today().isoformat()}
    rates = {"fpr": FPR, "fpr_reached": above([pixels])}
    return {"threshold": h, **rates, **counts, "fpr_of_subjects": [min(shares), max(shares)], **whole, **about}


def fit_healthy(detector: Detector, store: Path, places: list[int], slices: int = 64) -> None:
    """Let a detector measure what it needs on some of the slices that will set its threshold."""
    data, config = SliceStore(store).dataset(in_memory=False), detector.config
    chosen = [k for k, r in enumerate(data.rows) if r.place in (places or SLICE_RANGE)]
    batch = data.batch([chosen[i] for i in evenly_spaced(len(chosen), slices)])
    edge = BACKGROUND.get(config.normalisation, -1.0)
    x, brain = resize(batch[config.input], config.size, edge), resize_labels(batch["brain"], config.size)
    detector.eval().fit_healthy(x, brain)


def calibrate_variant(
    folder: Path, name: str, store: Path, places: list[int], sampler: Sampler | None
) -> tuple[Any, dict[str, Any]]:
    """Config and calibration of one variant of a detector in a folder, both set on the healthy subjects of a store."""
    detector = variant(load_detector(folder), name)
    if sampler:
        detector = with_config(detector, sampler=sampler)
    fit_healthy(detector, store, places)
    return detector.config, calibration_of(detector, store, places)


def head_slices(seed: int, index: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Slices and brain of one healthy subject by modality; the brain mask comes from that modality alone."""
    p = phantom.make_phantom("healthy", seed=seed, index=index, slices=SLICE_RANGE, twin=False)
    cases = {m: Case.from_phantom(p, modalities=[m]) for m in phantom.MODALITIES}
    return {m: (c.slices(m), c.brain_slices()) for m, c in cases.items()}


def plain_thresholds(jobs: int, subjects: int = 40, held_out: int = 20, seed: int = 4711) -> dict[str, Detector]:
    """The plain thresholds, calibrated on some phantoms and checked on others; the seed is used nowhere else."""
    heads, found = list(in_parallel(head_slices, [(seed, i) for i in range(subjects + held_out)], jobs)), {}
    what = f"healthy phantom subjects, axial slices {SLICE_RANGE[0]} to {SLICE_RANGE[-1]}, no lesion anywhere"
    about = {"subjects": subjects, "seed": seed, "phantom": phantom.VERSION, "version": mmccd.__version__}
    for m in phantom.MODALITIES:
        x, brain = (torch.cat(t) for t in zip(*(h[m] for h in heads[:subjects])))
        d = found[m] = calibrate(Threshold(input=m), x, brain, FPR, what, **about, date=date.today().isoformat())
        others = (h[m] for h in heads[subjects:])
        rates = [d.segment(d.anomaly_map(x, b))[b].double().mean().item() for x, b in others]
        low, high, mean, sd = min(rates), max(rates), float(np.mean(rates)), float(np.std(rates, ddof=1))
        checked = {"subjects": held_out, "fpr_mean": mean, "fpr_sd": sd, "fpr_min": low, "fpr_max": high}
        d.calibration = {**d.calibration, "held_out": checked}
    return found


# packing


def pack(method: str, settings: Settings, stores: dict[str, str], work: Path, out: Path, jobs: int) -> Path:
    """Train and calibrate a method and put its folder in its place; the run it comes from."""
    run, store = train(method, settings, stores, work), work / "calibrate.zarr"
    run_command(f"mmccd prepare phantom {store} {stores['calibrate']}")
    detector = with_error_map(as_packed(run), settings, stores, work)
    ready = save_detector(detector, work / f"packed-{method}")  # for other processes
    names = variant_names(detector)
    tasks = [(ready, name, store, settings.places, sampler_of(settings, name)) for name in names]
    detectors = {}
    for name, (config, calibration) in zip(names, in_parallel(calibrate_variant, tasks, jobs)):
        detectors[name] = variant(detector, name)
        detectors[name].config, detectors[name].calibration = config, calibration
        low, high = calibration["fpr_of_subjects"]
        print(f"{method}-{name}: threshold {calibration['threshold']:.4g}, in single subjects {low:.2%} to {high:.2%}")
    save_variants(detectors, out / method, half=True)
    return run


def pack_untrained(method: str, stores: dict[str, str], work: Path, out: Path, jobs: int) -> None:
    """The same for what has nothing to learn; its card is written by hand."""
    if method == "threshold":
        found = plain_thresholds(jobs)
    else:
        run_command(f"mmccd prepare phantom {work}/calibrate.zarr {stores['calibrate']}")
        found = {m: Equalised(input=m) for m in MODALITIES}
        for d in found.values():
            d.calibration = calibration_of(d, work / "calibrate.zarr", list(SLICE_RANGE))
    save_variants(found, out / method, half=True)


# the card


def packed_fingerprints(method: str, out: Path) -> dict[str, str]:
    """Fingerprints of the packed detectors, by their rows in the results, such as "cycle flair-t1"."""
    names = variant_names(load_detector(out / method))
    return {f"{method} {n}": fingerprint(load_detector(out / method, variant=n)) for n in names}


GIVEN_BACK = (
    " Given back: the share of a glioma's contrast to the healthy twin that is in the reconstruction (100%: the lesion "
    "is copied, 0%: the healthy tissue is back)."
)


def quote_scores(method: str, settings: Settings, out: Path) -> str:
    """The evidence as a table, if it was made with these very weights."""
    file, packed = RESULTS / f"{settings.recipe}.json", packed_fingerprints(method, out)
    r = json.loads(file.read_text()) if file.exists() else {"methods": {}}
    if any(r["methods"].get(key, {}).get("fingerprint") != found for key, found in packed.items()):
        return f"Not measured yet: `python experiments/run.py {settings.recipe}`."

    how = "".join(f" + {name}" for name, error in r.get("settings", {}).items() if error == settings.error and error)

    def ap(key: str) -> list[str]:
        return [f"{r['kinds'][kind][key]['summary']['ap']['mean']:.2f}" for kind in KINDS]

    def with_map(key: str) -> str:
        name, variant = key.rsplit(" ", 1)
        return f"{name}{how} {variant}"

    def rival(name: str, key: str) -> str:
        variants = (key.rsplit(" ", 1)[1], r["methods"][key]["input"])
        return next(k for h in (how, "") for v in variants if (k := f"{name}{h} {v}") in r["methods"])

    copied, rows = r.get("copies", {"summary": {}})["summary"], []
    for key in packed:
        others = [", ".join(ap(rival(name, key))) for name in settings.rivals.values()]
        own = with_map(key)
        row = [key.replace(" ", "-"), *ap(own), *others, f"{r['healthy']['summary'][own]['mean']:.1%}"]
        rows.append(row + ([f"{copied[key]['copied']['mean']:.0%}"] if copied else []))
    head = ["detector", *(f"AP {name}" for name in KINDS.values()), *settings.rivals, "healthy brain above"]
    n = ", ".join(f"{len(r['subjects'][k]['rows'])} {k}" for k in KINDS)
    return (
        markdown_table(head + ["lesion given back"] * bool(copied), rows)
        + f"\n\nAverage precision, slice protocol, phantoms of seed {r['seed']['evidence']} ({n}, "
        + f"{len(r['healthy']['ids'])} healthy), {r['date']}, `python experiments/run.py {settings.recipe}`."
        + GIVEN_BACK * bool(copied)
        + f" All with the map of these weights ({how[3:]})." * bool(how)
    )


def ceiling() -> float:
    """The R2 that the phantom leaves open where folds and vessels are hidden, mean over the modalities."""
    found = json.loads((RESULTS / "imagination_floor.json").read_text())["redrawn"]["folds"]["modalities"]
    return float(np.mean([v["r2"] for v in found.values()]))


def read_log(run: Path) -> list[dict[str, float]]:
    """The lines of the log of a run, without what a line does not have."""
    with (run / "log.csv").open() as log:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(log)]


def facts(run: Path, detectors: list[Detector]) -> dict[str, Any]:
    """What the record, the log and the thresholds of a run say."""
    record = json.loads((run / "train.json").read_text())
    about, last = record["about"], record["result"]
    one = detectors[0]
    log = read_log(run)
    val = {int(r["step"]): r["val_loss"] for r in log if "val_loss" in r}
    known = [r["imagination_r2"] for r in log if "imagination_r2" in r]
    at, parts = min(val, key=lambda k: val[k]), {k: getattr(one, k) for k in ("f", "g") if hasattr(one, k)}
    calibrations = [d.calibration or {} for d in detectors]
    whole = [c["fpr_whole_heads"] for c in calibrations if "fpr_whole_heads" in c]
    return {
        "parameters": count_parameters(one),
        **{k: count_parameters(net) for k, net in parts.items()},
        "data": about["data"]["what"],
        "validation": about["validation"]["what"],
        "t": about["training"],
        "samples": last["samples"],
        "loss": f"validation {val[0]:.4f} before, lowest {val[at]:.4f} at step {at}, {last['val_loss']:.4f} at the end",
        "r2": known[-1] if known else None,
        "c": calibrations[0],
        "whole": f"over whole heads it is {min(whole):.1%} to {max(whole):.1%}, " if whole else "",
        "most": max(c["fpr_of_subjects"][1] for c in calibrations),
        "made": f"{record['date']}, {record['device']}, torch {record['torch']}, {duration(last['seconds'])}",
    }


def error_map_words(settings: Settings, stores: dict[str, str]) -> str:
    """How the error becomes the map, in words."""
    c = ErrorMapConfig(**settings.error)
    words = ["the error"]
    if c.expected:
        words.append(
            "divided by what a small network expects of healthy tissue, from the reconstruction alone (learned from "
            f"{settings.expect_slices} slices of further healthy heads, `{stores['expect']}`)"
        )
    if c.window > 1:
        words.append(f"{c.how} over {c.window}x{c.window} pixels")
    return ", ".join(words)


def write_card(method: str, settings: Settings, stores: dict[str, str], limits: str, run: Path, out: Path) -> None:
    """Card, curve and log of the training, beside the tensors."""
    names = variant_names(load_detector(out / method))
    f = facts(run, [load_detector(out / method, variant=n) for n in names])
    t, c = f["t"], f["c"]
    rows = [
        ["detectors", settings.what],
        ["network", settings.network.format(**f)],
        ["learned from", f["data"]],
        ["validated on", f["validation"]],
        ["steps, samples", f"{t['steps']} steps of {t['batch_size']} slices, {f['samples']:,} seen, {settings.drawn}"],
        ["settings", f"seed {t['seed']}, AdamW {t['lr']:g}, averaged weights ({t['ema']})"],
        ["loss", f"{settings.loss}: {f['loss']} ([curve](curve.png), [log](log.csv))"],
        *([["sampler", settings.sampler]] if settings.sampler else []),
        *(
            [
                [
                    "imagination",
                    f"R2 of what is hidden: {f['r2']:.2f}, mean of six pairs on the validation subjects (for who sees "
                    f"nothing of it the phantom's own limit is {ceiling():.2f}: folds and vessels redrawn)",
                ]
            ]
            if f["r2"] is not None
            else []
        ),
        *([["map", error_map_words(settings, stores)]] if settings.error else []),
        [
            "thresholds",
            f"{c['fpr']:.0%} of the brain of {c['subjects']} other healthy subjects lies above ({c['data']}); "
            f"{f['whole']}in single subjects 0% to {f['most']:.0%}",
        ],
        ["made", f["made"]],
    ]
    text = (
        f"# {method}: {settings.title}\n\n**For research and teaching, not a medical device.**\n\n"
        f"{markdown_table(['', ''], rows)}\n\nMade by `python experiments/train_weights.py {method}`, which runs\n\n"
        + "```sh\n"
        + "\n".join(commands(method, settings, stores))
        + "\n```\n\nand sets the thresholds.\n\n"
        f"## Scores\n\n{quote_scores(method, settings, out)}\n\n"
        f"## Limits\n\n{(settings.limits + ' ').lstrip()}{limits}\n"
    )
    write_atomic(out / method / "README.md", text.encode())
    for name in ("curve.png", "log.csv"):
        shutil.copy(run / name, out / method / name)
    if f["r2"] is not None:
        save_png(curve_figure(read_log(run), ceiling()), out / method / "curve.png")


def main(argv: list[str] | None = None) -> int:
    known, stores, limits = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["threshold", "equalised", *known])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "experiments", help="folder for stores and runs")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that gets a folder for the method")
    parser.add_argument("--jobs", type=int, default=1, help="processes that set thresholds")
    parser.add_argument("--card-only", action="store_true", help="write the card of packed weights again")
    args = parser.parse_args(argv)
    if args.method not in known:
        pack_untrained(args.method, stores, args.work, args.out, args.jobs)
        return 0
    settings, run = known[args.method], args.work / f"run-{args.method}"
    if not args.card_only:
        run = pack(args.method, settings, stores, args.work, args.out, args.jobs)
    elif not (run / "train.json").exists():
        raise ValueError(f"there is no run of training in {run}, whose facts the card names")
    write_card(args.method, settings, stores, limits, run, args.out)
    return 0


if __name__ == "__main__":
    run_script(main)
