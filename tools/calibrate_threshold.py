"""Calibrate the packaged plain thresholds on healthy phantom subjects: python tools/calibrate_threshold.py [--subjects 40] [--held-out 20]

Writes mmccd/weights/threshold/. What they were calibrated on, and the false-positive rate on subjects
that took no part, stands in config.json. To be run again whenever the default phantom changes (it is frozen by version)."""

import argparse
import datetime
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

import mmccd
from mmccd import phantom
from mmccd.cases.case import Case
from mmccd.detector import Threshold, calibrate, save_variants
from mmccd.phantom import MODALITIES
from mmccd.slices import SLICE_RANGE


def subject(seed, index):
    "Normalised slices of every modality, and the brain, of one healthy subject; the mask comes from that modality alone."
    p = phantom.make_phantom("healthy", seed=seed, index=index, slices=SLICE_RANGE, twin=False)
    cases = {m: Case.from_phantom(p, modalities=[m]) for m in MODALITIES}
    return {m: (c.slices(m), c.brain_slices()) for m, c in cases.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--held-out", type=int, default=20)
    parser.add_argument("--seed", type=int, default=4711, help="of the phantom subjects; not used anywhere else")
    parser.add_argument("--fpr", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path(mmccd.__file__).parent / "weights")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    n = args.subjects + args.held_out
    torch.set_num_threads(1)
    with ProcessPoolExecutor(args.jobs) as pool:
        made = list(pool.map(subject, [args.seed] * n, range(n)))
    calibrated = {}
    version = getattr(phantom, "VERSION", "unversioned")
    for m in MODALITIES:
        x, brain = (torch.cat(t) for t in zip(*(s[m] for s in made[: args.subjects])))
        detector = Threshold(input=m)
        calibrate(
            detector,
            x,
            brain,
            args.fpr,
            f"healthy phantom subjects, axial slices {SLICE_RANGE[0]} to {SLICE_RANGE[-1]}, no lesion anywhere",
            subjects=args.subjects,
            seed=args.seed,
            phantom=version,
            version=mmccd.__version__,
            date=datetime.date.today().isoformat(),
        )
        rates = [
            detector.segment(detector.anomaly_map(x, b))[b].double().mean().item()
            for x, b in (s[m] for s in made[args.subjects :])
        ]
        detector.calibration["held_out"] = {
            "subjects": len(rates),
            "fpr_mean": float(np.mean(rates)),
            "fpr_sd": float(np.std(rates, ddof=1)),
            "fpr_min": min(rates),
            "fpr_max": max(rates),
        }
        calibrated[m] = detector
        print(
            f"{m:6s} threshold {detector.threshold:.4f}; {args.fpr:.0%} asked for, on {len(rates)} held-out subjects "
            f"{np.mean(rates):.2%} +- {np.std(rates, ddof=1):.2%} ({min(rates):.2%} to {max(rates):.2%})"
        )
    save_variants(calibrated, args.out / "threshold")


if __name__ == "__main__":
    main()
