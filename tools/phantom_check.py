"""How hard is the default phantom? The plain threshold on default gliomas, beside the same on real BraTS patients.

    python tools/phantom_check.py                    # 60 subjects, seed 0: prints the table, writes data/results/phantom_check.json
    python tools/phantom_check.py --real FOLDER --picture OUT.png     # also slices and histograms beside your own BraTS cases

The protocol is method.md's: each case scaled by the median and interquartile range of its brain, the axial slice 70..89 with most lesion,
whole brain, T1 taken as dark. Exit code 1 where a mean lies outside its tolerance. Pictures of real patients never belong in this repo."""

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np

RESULT = Path(__file__).parent.parent / "data" / "results" / "phantom_check.json"
SIGN = dict(flair=1, t2=1, t1=-1)
# plain threshold on 13 BraTS patients, and how far the phantom may lie from it
REAL = dict(flair=dict(ap=0.82, auroc=0.94), t2=dict(ap=0.47, auroc=0.88), t1=dict(ap=0.20, auroc=0.56))
TOLERANCE = dict(flair=dict(ap=0.10, auroc=0.03), t2=dict(ap=0.10, auroc=0.05), t1=dict(ap=0.06, auroc=0.08))
PREVALENCE, PREVALENCE_TOLERANCE = 0.16, 0.04


def measure(seed, index):
    "AP and AUROC of the threshold in each modality, prevalence and seconds of one glioma."
    from time import perf_counter

    from mmccd.intensity import normalise
    from mmccd.phantom import make_phantom
    from mmccd.scoring import auroc, average_precision, slice_protocol

    start = perf_counter()
    p = make_phantom("glioma", seed, index, range(70, 90), twin=False)
    out = dict(id=p.id, seconds=perf_counter() - start)
    for m, sign in SIGN.items():
        score, truth = slice_protocol(
            sign * normalise(p.volumes[m], p.brain, "median_iqr"), p.labels > 0, p.brain, slices=range(20)
        )
        out[m] = dict(ap=average_precision(score, truth), auroc=auroc(score, truth))
    return out | dict(prevalence=float(truth.mean()))


def summary(values):
    return dict(mean=float(np.mean(values)), sd=float(np.std(values, ddof=1)))


def table(rows):
    "Means and standard deviations, with the real numbers and the tolerance beside."
    modalities = {
        m: {k: summary([r[m][k] for r in rows]) for k in ("ap", "auroc")} | dict(real=REAL[m], tolerance=TOLERANCE[m])
        for m in SIGN
    }
    return dict(
        modalities=modalities,
        prevalence=summary([r["prevalence"] for r in rows]) | dict(real=PREVALENCE, tolerance=PREVALENCE_TOLERANCE),
    )


def lines(result):
    "The table as text, and whether each mean lies within its tolerance."
    rows = [
        (f"{m} {k}", r[k], r["real"][k], r["tolerance"][k])
        for m, r in result["modalities"].items()
        for k in ("ap", "auroc")
    ]
    p = result["prevalence"]
    for name, got, real, tolerance in [*rows, ("prevalence", p, p["real"], p["tolerance"])]:
        good = abs(got["mean"] - real) <= tolerance
        yield (
            good,
            f"{name:12} {got['mean']:.3f} ± {got['sd']:.3f} (sd)   real {real:.2f} ± {tolerance:.2f} allowed   {'ok' if good else 'OUTSIDE'}",
        )


def picture(folder, path, n=4):
    "Slices and brain histograms of phantoms (left) and real cases (right), one window for all."
    import nibabel as nib
    from matplotlib.figure import Figure

    from mmccd.intensity import normalise
    from mmccd.phantom import MODALITIES, make_phantom

    cases = []
    for i in range(n):
        p = make_phantom("glioma", 0, i, range(70, 90), twin=False)
        cases.append((p.volumes, p.labels > 0))
    for case in sorted(d for d in Path(folder).iterdir() if d.is_dir())[:n]:

        def read(m):
            return np.asarray(nib.load(next(case.glob(f"*_{m}.nii.gz"))).dataobj)[:, :, 70:90].astype(np.float32)

        cases.append(({m: read(m) for m in MODALITIES}, read("seg") > 0))
    figure = Figure((24, 3 * n), layout="constrained")
    axes = figure.subplots(n, 10)
    for i, (volumes, lesion) in enumerate(cases):
        row, z, brain = axes[i % n, 5 * (i // n) :], int(lesion.sum((0, 1)).argmax()), volumes["flair"] > 0
        for ax, m in zip(row, MODALITIES):
            v = normalise(volumes[m], brain, "median_iqr")
            ax.imshow(v[:, :, z].T, cmap="gray", vmin=-1, vmax=1.2)
            ax.contour(lesion[:, :, z].T, [0.5], colors="tab:cyan", linewidths=0.8)
            ax.set_axis_off()
            row[4].hist(v[brain & ~lesion], np.linspace(-1.5, 2.5, 100), histtype="step", density=True, label=m)
        row[4].legend(fontsize=7)
    figure.savefig(path, dpi=60)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=60, help="subjects")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write")
    parser.add_argument("--real", help="a folder of BraTS cases to draw beside")
    parser.add_argument("--picture", help="where to draw it: outside this repo")
    args = parser.parse_args(argv)
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(partial(measure, args.seed), range(args.n)))
    from mmccd.phantom import VERSION

    result = dict(
        command=f"python tools/phantom_check.py --n {args.n} --seed {args.seed}",
        phantom=VERSION,
        kind="glioma",
        n=args.n,
        seed=args.seed,
        protocol="slice 70..89 with most lesion, whole brain",
        date=date.today().isoformat(),
        device="cpu",
        **table(rows),
    )
    checked = list(lines(result))
    print(*(text for _, text in checked), sep="\n")
    print(f"20 slices of a subject: median {np.median([r['seconds'] for r in rows]):.2f} s, two at a time")
    for r in rows:
        del r["seconds"]
    args.out.write_text(json.dumps(result | dict(subjects=rows), indent=1) + "\n")
    if args.real:
        picture(args.real, args.picture)
    return 0 if all(good for good, _ in checked) else 1


if __name__ == "__main__":
    sys.exit(main())
