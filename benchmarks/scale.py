"""Does a case cost the same, in time and in memory, whether there are ten or two hundred?

Phantoms are prepared into a store, and whole heads are detected in, each number of cases in a process of its own; and
one volume far larger than a head is detected in. Writes data/results/bench_scale.json, with what follows for 1,251
cases, the training set of BraTS2021.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ONE_THREAD, about, check_out, cpu_name, make_parser, versions, write_result

CASES = (10, 50, 200)
BRATS = 1251  # cases of the training set of BraTS2021
LARGE = (512, 512, 400)  # voxels
LOOK = """
import json, sys, time
import torch
from common import process_mb
torch.set_num_threads(1)
{imports}
start = time.process_time()
{code}
print(json.dumps(dict(cpu_s=time.process_time() - start, peak_mb=process_mb())))
"""
PREPARE = LOOK.format(
    imports="from mmccd.cases.phantoms import Phantoms\nfrom mmccd.cases.prepare import prepare",
    code="prepare(Phantoms(glioma=int(sys.argv[2]), seed=0), sys.argv[1], 64, range(70, 90), progress=False)",
)
DETECT = LOOK.format(
    imports="from mmccd.detection.detect import detect_many\nfrom mmccd.detector import load_detector",
    code="r = detect_many(sys.argv[1], load_detector(sys.argv[3]), sys.argv[2])\n"
    "assert all(c['status'] == 'done' for c in r['cases']), r['cases']",
)


def run(code: str, *words: object) -> dict[str, float]:
    """CPU seconds and peak megabytes of a piece of Python in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, words)]
    env = os.environ | ONE_THREAD | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def copies(head: Path, folder: Path, n: int) -> Path:
    """A folder with `n` cases that share the files of one head."""
    for k in range(n):
        case = folder / f"case-{k:04d}"
        case.mkdir(parents=True)
        for file in head.glob("*_flair.nii.gz"):
            os.link(file, case / file.name.replace(head.name, case.name))
    return folder


def large_volume(folder: Path) -> Path:
    """A head with the voxels of a much finer scan: the template of nilearn, enlarged, with noise."""
    import nibabel as nib
    import numpy as np
    from nilearn.datasets import load_mni152_template
    from scipy.ndimage import zoom

    template = load_mni152_template(resolution=2)
    v = template.get_fdata(dtype=np.float32)
    scale = [n / m for n, m in zip(LARGE, v.shape)]
    fine = zoom(np.where(v > 0.1, v, 0), scale, order=1)
    fine += (fine > 0) * np.random.default_rng(0).normal(0, 0.02, fine.shape).astype(np.float32)
    folder.mkdir()
    spacing = np.diag([2 / s for s in scale] + [1])
    nib.save(nib.Nifti1Image((1000 * fine).astype(np.int16), spacing), folder / f"{folder.name}_flair.nii.gz")
    return folder


def per_case(rows: list[dict[str, float]]) -> dict[str, float]:
    """What the first and the last row say of a case, and of 1,251: seconds = start + cases * seconds a case."""
    few, many = rows[0], rows[-1]
    each = (many["cpu_s"] - few["cpu_s"]) / (many["cases"] - few["cases"])
    start = few["cpu_s"] - few["cases"] * each
    memory = (many["peak_mb"] - few["peak_mb"]) / (many["cases"] - few["cases"])
    return {"start_s": start, "s_a_case": each, "mb_a_case": memory, "brats_hours": (start + BRATS * each) / 3600}


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_scale")
    parser.add_argument("--quick", action="store_true", help="one and two cases, no large volume: does it run?")
    parser.add_argument("--weights", default="threshold-flair", help="detector, by name")
    args = parser.parse_args(argv)
    check_out(args.out)
    numbers = (1, 2) if args.quick else CASES
    rows: dict[str, list[dict[str, float]]] = {"prepare": [], "detect": []}
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        from mmccd.cases.phantoms import write_phantom
        from mmccd.phantom import make_phantom

        base = Path(folder)
        head = write_phantom(make_phantom("glioma", 0, 3, twin=False), base / "head")
        for n in numbers:
            rows["prepare"].append({"cases": n} | run(PREPARE, base / f"store-{n}", n))
            cases = copies(Path(head), base / f"cases-{n}", n)
            rows["detect"].append({"cases": n} | run(DETECT, cases, base / f"out-{n}", args.weights))
            for name, found in rows.items():
                print(f"{name:8} {n:4} cases: {found[-1]['cpu_s']:7.1f} s, peak {found[-1]['peak_mb']:5.0f} MB")
        if not args.quick:
            case = large_volume(base / "large")
            result["large"] = {"voxels": list(LARGE)} | run(DETECT, case, base / "out-large", args.weights)
    facts = {
        "seed": 0,
        "data": "phantom 1, glioma; prepare: 20 slices each, made on the way; detect: FLAIR of one whole head, linked",
        "device": cpu_name(),
        "weights": args.weights,
        "versions": versions("torch", "zarr"),
    }
    scale = {name: {"rows": found} | per_case(found) for name, found in rows.items()}
    write_result(args.out, about("scale", argv) | facts | scale | result)


if __name__ == "__main__":
    main()
