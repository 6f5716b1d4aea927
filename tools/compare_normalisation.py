"""Which normalisation keeps healthy tissue in its place? python tools/compare_normalisation.py [--glioma 24 --ms 8 --infarct 8] [--jobs 2]

Each phantom patient (whole head) is normalised, and so is its healthy twin. For white and grey matter outside the lesion, in units of the
healthy interquartile range: `shift`, how far a patient's tissue lies from its own twin's (mean of the absolute values); `spread`, how far the twins
lie from their common mean (root mean square); `displacement`, how far the patients lie from that mean: what a detector trained on healthy people meets.
Then one FLAIR threshold for all patients, at 1 % false positives on the twins. Writes data/results/normalisation.json."""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

from mmccd.intensity import METHODS, bend, landmarks, learn_landmarks
from mmccd.phantom import HEALTHY, MODALITIES, VERSION, make_phantom

RESULT = Path(__file__).parent.parent / "data" / "results" / "normalisation.json"
TISSUES = [1 + list(HEALTHY).index(t) for t in ("wm", "cortex")]


def sample(job):
    "Intensities of 60,000 random brain voxels: patient and twin by modality, tissue, lesion."
    kind, seed, index = job
    p = make_phantom(kind, seed, index)
    where = np.flatnonzero(p.brain)
    where = np.sort(np.random.default_rng(index).choice(where, 60_000, replace=False))

    def take(v):
        return v.ravel()[where]

    return {
        "kind": kind,
        "ill": {m: take(v) for m, v in p.volumes.items()},
        "twin": {m: take(v) for m, v in p.twin.items()},
        "tissue": take(p.tissue),
        "lesion": take(p.labels) > 0,
    }


def mapping(method, values, modality, people):
    "The function that `method` fits to the values of one brain."
    if method == "nyul":
        own, standard = landmarks(values), learn_landmarks(people)
        return lambda v: bend(np.asarray(v, float), own, standard)
    if method == "published":
        q = np.percentile(values, 90)
        return lambda v: 6 * np.asarray(v, float) / q - 3
    centre, half = METHODS[method](values, modality)
    return lambda v: (np.asarray(v, float) - centre) / half


def compare(patients, method, modality):
    "shift, spread and displacement of one method in one modality; the normalised values too."
    rows, mapped = [], []
    for p in patients:
        others = [q["twin"][modality] for q in patients if q is not p]
        ill, twin = (mapping(method, p[who][modality], modality, others) for who in ("ill", "twin"))
        centres = [np.median(p["twin"][modality][(p["tissue"] == t) & ~p["lesion"]]) for t in TISSUES]
        rows.append((ill(centres), twin(centres), np.diff(twin(np.percentile(p["twin"][modality], [25, 75])))))
        mapped.append((ill(p["ill"][modality]), twin(p["twin"][modality])))
    ill, twin, unit = (np.array(r) for r in zip(*rows))
    off, rms = twin.mean(0), lambda a: float(np.sqrt((a**2).mean()) / unit.mean())
    return {
        "shift": float(abs(ill - twin).mean() / unit.mean()),
        "shift_max": float(abs(ill - twin).max() / unit.mean()),
        "spread": rms(twin - off),
        "displacement": rms(ill - off),
    }, mapped


def detection(patients, mapped):
    "One threshold at 1 % false positives over all twins: mean Dice over the patients, and the false-positive rates of the twins."
    from mmccd.scoring import dice

    h = np.quantile(np.concatenate([twin for _, twin in mapped]), 0.99)
    scores = [dice(ill > h, p["lesion"]) for p, (ill, _) in zip(patients, mapped) if p["lesion"].any()]
    rates = [float((twin > h).mean()) for _, twin in mapped]
    return {"dice_flair": float(np.mean(scores)), "fpr_sd": float(np.std(rates, ddof=1))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    counts = dict(glioma=24, ms=8, infarct=8)
    for kind, n in counts.items():
        parser.add_argument(f"--{kind}", type=int, default=n)
    parser.add_argument("--seed", type=int, default=31, help="of the phantoms")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    jobs = [(kind, args.seed, i) for kind in counts for i in range(getattr(args, kind))]
    with ProcessPoolExecutor(args.jobs) as pool:
        patients = list(pool.map(sample, jobs))
    table = {}
    for method in (*METHODS, "nyul", "published"):
        found = {m: compare(patients, method, m) for m in MODALITIES}
        rows = {m: row for m, (row, _) in found.items()}
        mean = {k: float(np.mean([r[k] for r in rows.values()])) for k in ("shift", "spread", "displacement")}
        gliomas = [p for p in patients if p["kind"] == "glioma"]
        glioma_shift = float(np.mean([compare(gliomas, method, m)[0]["shift"] for m in MODALITIES]))
        table[method] = {
            **mean,
            "shift_glioma": glioma_shift,
            **detection(patients, found["flair"][1]),
            "modalities": rows,
        }
        print(
            f"{method:13s}" + "  ".join(f"{k} {v:.3f}" for k, v in table[method].items() if k != "modalities"),
            flush=True,
        )
    record = {
        "what": "movement of healthy white and grey matter, in healthy interquartile ranges",
        "date": date.today().isoformat(),
        "command": f"python tools/compare_normalisation.py {' '.join(f'--{k} {getattr(args, k)}' for k in counts)} --seed {args.seed}",
        "phantom": VERSION,
        "seed": args.seed,
        "device": "cpu",
        "patients": {k: getattr(args, k) for k in counts},
        "methods": table,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
