"""What preparing a data set costs: python tools/bench_prepare.py [--quick]

Ours (`mmccd.store.prepare`) against the naive way: nibabel's get_fdata of each modality and of the segmentation (float64), 2nd to 90th percentile of the
positive voxels, one float64 .npy for each slice and file. The same phantom heads (240x240x155, four modalities and a segmentation, .nii.gz) and the same
slices for both: 70 to 89, and all with brain. Each run is a process of its own, the order alternates, imports are not counted, a first case warms up.
A data set of n cases is three heads under n names (hard links), so the file system's cache holds them for both.
Seconds a case: wall time of a run of `CASES` cases; "steady" is the slope between 5 and 50 cases, without the start of worker processes. CPU seconds, children
included, are hardly moved by other work on the machine. Peak memory: the sum of the resident memory of all processes of the run, looked at every 20 ms,
so what processes share counts twice. Writes data/results/bench_prepare.json."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

RESULT = Path(__file__).parent.parent / "data" / "results" / "bench_prepare.json"
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
from mmccd.store import prepare
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
        wanted, jobs_wanted, jobs = jobs, jobs, 1
        go(cases[-1:], d + "/warm")
        jobs = jobs_wanted
        print("start", flush=True)
        wall, cpu = time.perf_counter(), os.times()
        go(cases[:n], d + "/out")
        wall, end = time.perf_counter() - wall, os.times()
        size = sum(f.stat().st_size for f in Path(d, "out").rglob("*") if f.is_file())
        print(wall, sum(end[:4]) - sum(cpu[:4]), size / n, flush=True)
        os._exit(0) if os.system("rm -rf " + d) == 0 else None
"""


def resident(pid):
    "Bytes that a process and its children hold."
    total, waiting = 0, [pid]
    while waiting:
        p = waiting.pop()
        try:
            total += int(Path(f"/proc/{p}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            waiting += [int(c) for t in Path(f"/proc/{p}/task").iterdir() for c in (t / "children").read_text().split()]
        except (OSError, IndexError):
            pass
    return total


def measure(way, raw, slices, size, jobs, n):
    "Seconds, CPU seconds and bytes a case, and peak MB, of one process."
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory(dir=raw.parent) as d:
        script = Path(d, "run.py")
        script.write_text(RUN.format(way=NAIVE if way == "naive" else OURS))
        run = subprocess.Popen(
            [sys.executable, script, raw, *map(str, (slices[0], slices[-1], size, jobs, n)), d],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        if run.stdout.readline() != "start\n":
            raise SystemExit("the measured process failed")
        peak = 0
        while run.poll() is None:
            peak = max(peak, resident(run.pid))
            time.sleep(0.02)
        wall, cpu, size = map(float, run.stdout.read().split())
    return dict(seconds=wall / n, cpu_seconds=cpu / n, bytes=size, peak_mb=peak / 1e6)


def make_heads(folder, n):
    "Three whole heads, and n cases that are hard links to them."
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


def compare(raw, slices, ways, repeats, cases):
    "Median of alternating runs."
    rows = {name: [] for name in ways}
    for r in range(repeats):
        for name in list(ways)[:: -1 if r % 2 else 1]:
            rows[name].append(measure(raw=raw, slices=slices, n=cases, **ways[name]))
    out = {name: {k: statistics.median(r[k] for r in found) for k in found[0]} for name, found in rows.items()}
    for name, row in out.items():
        if name != "naive":
            row.update(
                {
                    "times_faster": out["naive"]["seconds"] / row["seconds"],
                    "times_less_cpu": out["naive"]["cpu_seconds"] / row["cpu_seconds"],
                    "share_of_bytes": row["bytes"] / out["naive"]["bytes"],
                }
            )
        print(
            f"{name:18} {row['seconds']:6.2f} s, {row['cpu_seconds']:6.2f} s of CPU, {row['bytes'] / 1e6:8.2f} MB a case, peak {row['peak_mb']:6.0f} MB",
            flush=True,
        )
    return out


def rounded(x):
    return (
        {k: rounded(v) for k, v in x.items()}
        if isinstance(x, dict)
        else float(f"{x:.4g}")
        if isinstance(x, float)
        else x
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repeat, 3 and 6 cases, nothing written: does it run?")
    quick = parser.parse_args().quick
    repeats, few, many = (1, 3, 6) if quick else (REPEATS, 5, 50)
    ways = {
        "naive": dict(way="naive", size=0, jobs=1),
        **{f"ours {s}, jobs {j}": dict(way="ours", size=s, jobs=j) for s, j in ((64, 1), (128, 1), (240, 1))},
    }
    with tempfile.TemporaryDirectory() as d:
        raw, whole = make_heads(Path(d), many)
        print("slices 70 to 89")
        twenty = compare(raw, range(70, 90), ways, repeats, few if quick else CASES)
        print(f"slices {whole[0]} to {whole[-1]}")
        all_slices = compare(
            raw, whole, {k: ways[k] for k in ("naive", "ours 64, jobs 1", "ours 240, jobs 1")}, repeats, 3
        )
        print(f"{few} and {many} cases")
        scale = {}
        for name, way in dict(
            naive=ways["naive"], **{f"ours 64, jobs {j}": dict(way="ours", size=64, jobs=j) for j in (1, 2)}
        ).items():
            a, b = (measure(raw=raw, slices=range(70, 90), n=n, **way) for n in (few, many))
            scale[name] = {
                "seconds_a_case_steady": (b["seconds"] * many - a["seconds"] * few) / (many - few),
                "seconds_a_case_50": b["seconds"],
                "start_seconds": a["seconds"] * few - (b["seconds"] * many - a["seconds"] * few) / (many - few) * few,
                "peak_mb_5": a["peak_mb"],
                "peak_mb_50": b["peak_mb"],
            }
            print(name, rounded(scale[name]), flush=True)
    for name in scale:
        scale[name]["times_faster_steady"] = (
            scale["naive"]["seconds_a_case_steady"] / scale[name]["seconds_a_case_steady"]
        )
    best = {
        "jobs 1": twenty["ours 64, jobs 1"]["times_faster"],
        "jobs 2, steady": scale["ours 64, jobs 2"]["times_faster_steady"],
        "jobs 1, all slices": all_slices["ours 64, jobs 1"]["times_faster"],
    }
    reached = {
        "goals": GOALS,
        "times_faster": best,
        "faster_goal_reached": {k: v >= GOALS["times_faster"] for k, v in best.items()},
        "share_of_bytes_same_pixels": twenty["ours 240, jobs 1"]["share_of_bytes"],
        "bytes_goal_reached": twenty["ours 240, jobs 1"]["share_of_bytes"] <= GOALS["share_of_bytes"],
        "peak_grows_from_5_to_50_by": {k: v["peak_mb_50"] / v["peak_mb_5"] - 1 for k, v in scale.items()},
    }
    print(json.dumps(rounded(reached), indent=1))
    if quick:
        return
    RESULT.write_text(
        json.dumps(
            rounded(
                dict(
                    command="python tools/bench_prepare.py",
                    date=date.today().isoformat(),
                    seed=SEED,
                    data=f"phantom 1, whole heads of {', '.join(k for k, _ in HEADS)}, as .nii.gz; n cases are hard links to these three",
                    device=f"cpu ({platform.machine()}, {os.cpu_count()} cores, one thread a process)",
                    versions={p: version(p) for p in ("numpy", "torch", "nibabel", "scipy", "zarr", "isal")}
                    | {"python": platform.python_version()},
                    cases=CASES,
                    repeats=REPEATS,
                    slices_70_to_89=twenty,
                    slices_all={"first": whole[0], "last": whole[-1]} | all_slices,
                    five_and_fifty=scale,
                    reached=reached,
                )
            ),
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
