"""What preparing a data set costs: `mmccd prepare` beside the naive way.

The naive way: nibabel's get_fdata of each modality and of the segmentation (float64), 2nd to 90th percentile of the
positive voxels, one float64 .npy for each slice and file. Both are given the same phantom heads (240x240x155, four
modalities and a segmentation, .nii.gz) and the same slices: 70 to 89, and all with brain. Each run is a process of its
own, the order alternates, imports are not counted, a first case warms up. A data set of n cases is three heads under n
names (hard links), so the file system's cache holds them for both.

Seconds a case: wall time of a run of `CASES` cases; "steady" is the slope between 5 and 50 cases, without the start of
worker processes. CPU seconds, children included, are hardly moved by other work on the machine. Peak memory: the sum of
the resident memory of all processes of the run, read every 20 ms, so what processes share counts twice. Writes
data/results/bench_prepare.json.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ONE_THREAD, about, check_out, cpu_name, make_parser, resident_mb, versions, write_result

HEADS = [("glioma", 0), ("ms", 0), ("healthy", 0)]
CASES, REPEATS, SEED = 6, 3, 5
GOALS = {"times_faster": 5, "share_of_bytes": 0.25}
NAIVE = """
import nibabel as nib, numpy as np
def go(cases, out):
    for case in cases:
        folder = Path(out) / case.name; folder.mkdir(parents=True)
        for path in sorted(case.glob("*.nii.gz")):
            v = nib.load(path).get_fdata()
            if "_seg" not in path.name:
                low, high = np.percentile(v[v > 0], [2, 90])
                v = 6 * (v - low) / (high - low) - 3
            for k in slices: np.save(folder / f"{path.name[:-7]}_{k}.npy", v[:, :, k])
"""
OURS = """
from mmccd.cases.prepare import prepare
def go(cases, out):
    done = prepare(cases, out, size=size, slices=slices, min_brain=0., jobs=jobs, progress=False)
    assert not done["failed"] and done["slices"] == len(slices) * len(cases), done
"""
RUN = """
import os, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(1)
first, last, size, jobs, n = map(int, sys.argv[2:7])
slices = range(first, last + 1)
{way}
if __name__ == "__main__":
    cases = sorted(Path(sys.argv[1]).iterdir())
    with tempfile.TemporaryDirectory(dir=sys.argv[7]) as d:
        jobs, wanted = 1, jobs
        go(cases[-1:], d + "/warm")
        jobs = wanted
        print("start", flush=True)
        cpu, wall = os.times(), time.perf_counter()
        go(cases[:n], d + "/out")
        wall, end = time.perf_counter() - wall, os.times()
        size = sum(f.stat().st_size for f in Path(d, "out").rglob("*") if f.is_file())
        print(wall, sum(end[:4]) - sum(cpu[:4]), size / n, flush=True)
        os._exit(0) if os.system("rm -rf " + d) == 0 else None
"""


@dataclass(frozen=True)
class Way:
    """How cases are prepared: "naive" or "ours", pixels along a side (0: as they are), processes."""

    name: str
    size: int
    jobs: int


def measure(way: Way, raw: Path, slices: range, n: int) -> dict[str, float]:
    """Seconds, CPU seconds and bytes a case, and peak megabytes, of one run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=raw.parent) as d:
        script = Path(d, "run.py")
        script.write_text(RUN.format(way=NAIVE if way.name == "naive" else OURS))
        words = [sys.executable, script, raw, *map(str, (slices[0], slices[-1], way.size, way.jobs, n)), d]
        run = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD)
        if run.stdout.readline() != "start\n":
            raise ValueError("the measured process failed")
        peak = 0.0
        while run.poll() is None:
            peak = max(peak, resident_mb(run.pid))
            time.sleep(0.02)
        wall, cpu, written = map(float, run.stdout.read().split())
    return {"seconds": wall / n, "cpu_seconds": cpu / n, "bytes": written, "peak_mb": peak}


def make_heads(folder: Path, n: int) -> tuple[Path, range]:
    """A folder of `n` cases that are hard links to three whole heads, and the axial slices on which all show brain."""
    import nibabel as nib
    import numpy as np

    from mmccd.cases.phantoms import write_phantom
    from mmccd.phantom import make_phantom

    heads = [write_phantom(make_phantom(kind, SEED, i, twin=False), folder / "heads") for kind, i in HEADS]
    brain = [np.asarray(nib.load(next(h.glob("*_t1.nii.gz"))).dataobj).any((0, 1)) for h in heads]
    for k in range(n):
        (case := folder / "raw" / f"case{k:03d}").mkdir(parents=True)
        for f in heads[k % len(heads)].glob("*.nii.gz"):
            os.link(f, case / f"{case.name}_{f.name.split('_')[-1]}")
    inside = np.flatnonzero(np.all(brain, 0))
    return folder / "raw", range(int(inside[0]), int(inside[-1]) + 1)


def compare(raw: Path, slices: range, ways: dict[str, Way], repeats: int, cases: int) -> dict[str, dict[str, float]]:
    """By way, the median of alternating runs, and how it stands to the naive one."""
    rows: dict[str, list[dict]] = {name: [] for name in ways}
    for r in range(repeats):
        for name in list(ways)[:: -1 if r % 2 else 1]:
            rows[name].append(measure(ways[name], raw, slices, cases))
    out = {name: {k: statistics.median(r[k] for r in found) for k in found[0]} for name, found in rows.items()}
    naive = out["naive"]
    for name, row in out.items():
        if name != "naive":
            row["times_faster"] = naive["seconds"] / row["seconds"]
            row["times_less_cpu"] = naive["cpu_seconds"] / row["cpu_seconds"]
            row["share_of_bytes"] = row["bytes"] / naive["bytes"]
        print(
            f"{name:18} {row['seconds']:6.2f} s, {row['cpu_seconds']:6.2f} s of CPU, {row['bytes'] / 1e6:8.2f} MB a "
            f"case, peak {row['peak_mb']:6.0f} MB",
            flush=True,
        )
    return out


def compare_sizes(raw: Path, ways: dict[str, Way], few: int, many: int) -> dict[str, dict[str, float]]:
    """By way, what the start costs and what each further case does, and how memory grows from few to many cases."""
    out = {}
    for name, way in ways.items():
        a, b = (measure(way, raw, range(70, 90), n) for n in (few, many))
        steady = (b["seconds"] * many - a["seconds"] * few) / (many - few)
        out[name] = {
            "seconds_a_case_steady": steady,
            "seconds_a_case_50": b["seconds"],
            "start_seconds": (a["seconds"] - steady) * few,
            "peak_mb_5": a["peak_mb"],
            "peak_mb_50": b["peak_mb"],
            "times_faster_steady": out.get("naive", {"seconds_a_case_steady": steady})["seconds_a_case_steady"]
            / steady,
        }
        print(name, out[name], flush=True)
    return out


def goals_reached(twenty: dict, all_slices: dict, scale: dict) -> dict[str, Any]:
    """What was aimed at, and what became of it."""
    best = {
        "jobs 1": twenty["ours 64, jobs 1"]["times_faster"],
        "jobs 2, steady": scale["ours 64, jobs 2"]["times_faster_steady"],
        "jobs 1, all slices": all_slices["ours 64, jobs 1"]["times_faster"],
    }
    bytes_share = twenty["ours 240, jobs 1"]["share_of_bytes"]
    return {
        "goals": GOALS,
        "times_faster": best,
        "faster_goal_reached": {k: v >= GOALS["times_faster"] for k, v in best.items()},
        "share_of_bytes_same_pixels": bytes_share,
        "bytes_goal_reached": bytes_share <= GOALS["share_of_bytes"],
        "peak_grows_from_5_to_50_by": {k: v["peak_mb_50"] / v["peak_mb_5"] - 1 for k, v in scale.items()},
    }


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_prepare")
    parser.add_argument("--quick", action="store_true", help="one repeat, 3 and 6 cases: does it run?")
    args = parser.parse_args(argv)
    check_out(args.out)
    repeats, few, many, cases = (1, 3, 6, 3) if args.quick else (REPEATS, 5, 50, CASES)
    naive = Way("naive", 0, 1)
    ours = {f"ours {s}, jobs {j}": Way("ours", s, j) for s in (64, 128, 240) for j in (1, 2)}
    with tempfile.TemporaryDirectory() as d:
        raw, whole = make_heads(Path(d), many)
        ways = {"naive": naive} | {k: v for k, v in ours.items() if v.jobs == 1}
        twenty = compare(raw, range(70, 90), ways, repeats, cases)
        del ways["ours 128, jobs 1"]
        all_slices = compare(raw, whole, ways, repeats, 3)
        scale = compare_sizes(raw, {"naive": naive} | {k: v for k, v in ours.items() if v.size == 64}, few, many)
    facts = {
        "seed": SEED,
        "data": f"phantom 1, whole heads of {', '.join(k for k, _ in HEADS)}, as .nii.gz; n cases are hard links to "
        "these three",
        "device": cpu_name(f"{os.cpu_count()} cores, one thread a process"),
        "versions": versions("numpy", "torch", "nibabel", "scipy", "zarr", "isal"),
        "cases": cases,
        "repeats": repeats,
    }
    found = {
        "slices_70_to_89": twenty,
        "slices_all": {"first": whole[0], "last": whole[-1]} | all_slices,
        "five_and_fifty": scale,
        "reached": goals_reached(twenty, all_slices, scale),
    }
    write_result(args.out, about("prepare", argv) | facts | found)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
