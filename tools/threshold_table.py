"""Score the packaged plain thresholds on phantoms: python tools/threshold_table.py [--glioma 60 --ms 30 --infarct 30 --healthy 30]

Slice protocol, one modality at a time, calibrated threshold from the weights, oracle beside it, and the everything-positive row.
Writes data/results/threshold_phantom.json. The seed is not the one the phantom was adjusted on."""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

INPUTS = ("flair", "t2", "t1")
RESULT = Path(__file__).parent.parent / "data" / "results" / "threshold_phantom.json"


def measure(job):
    "(score, truth) of the protocol's slice for each input; for a healthy subject the false-positive rate over all slices."
    kind, seed, index = job
    from mmccd.cases.case import Case
    from mmccd.detection.maps import anomaly_volume
    from mmccd.detector import load_detector
    from mmccd.phantom import make_phantom
    from mmccd.scoring import slice_protocol

    p = make_phantom(kind, seed, index, range(70, 90), twin=False)
    out = {}
    for m in INPUTS:
        case, detector = Case.from_phantom(p, modalities=[m]), load_detector(f"threshold-{m}")
        a, truth = anomaly_volume(case, detector, m), p.labels > 0
        if kind == "healthy":
            out[m] = float((a > detector.threshold)[case.brain].mean())
        elif (truth & case.brain).any():
            out[m] = slice_protocol(a, truth, case.brain, slices=range(20))
    return p.id, out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    counts = dict(glioma=60, ms=30, infarct=30, healthy=30)
    for kind, n in counts.items():
        parser.add_argument(f"--{kind}", type=int, default=n)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    counts = {k: getattr(args, k) for k in counts}
    with ProcessPoolExecutor(2) as pool:
        made = {k: list(pool.map(measure, [(k, args.seed, i) for i in range(n)])) for k, n in counts.items()}
    from mmccd.detector import load_detector
    from mmccd.phantom import VERSION
    from mmccd.scoring import everything_positive, format_table, score_subjects

    result = dict(
        command="python tools/threshold_table.py "
        + " ".join(f"--{k} {n}" for k, n in (counts | dict(seed=args.seed)).items()),
        phantom=VERSION,
        seed=args.seed,
        date=date.today().isoformat(),
        device="cpu",
        kinds={},
        healthy_fpr={},
        left_out=[],
    )
    for kind in [k for k in ("glioma", "ms", "infarct") if counts[k]]:
        rows = {}
        for m in INPUTS:
            subjects = [(id, *r[m]) for id, r in made[kind] if m in r]
            rows[f"threshold on {m.upper()}"] = score_subjects(subjects, load_detector(f"threshold-{m}").threshold)
        rows["everything positive"] = score_subjects(
            everything_positive(subjects), 0.0, origin="none: true by definition"
        )
        result["kinds"][kind] = rows
        result["left_out"] += [f"{id}: no lesion in slices 70 to 89" for id, r in made[kind] if not r]
        print(kind, format_table(rows), sep="\n", end="\n\n")
    for m in INPUTS if counts["healthy"] else ():
        rates = [r[m] for _, r in made["healthy"]]
        result["healthy_fpr"][m] = dict(
            n=len(rates), mean=float(np.mean(rates)), sd=float(np.std(rates, ddof=1)), max=max(rates)
        )
        print(
            f"{m}: {np.mean(rates):.2%} of the brain of {len(rates)} healthy subjects above the calibrated threshold, at most {max(rates):.2%}"
        )
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
