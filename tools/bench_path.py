"""What the first path costs on one core: python tools/bench_path.py

Phantoms (20 slices, a whole head), writing them, and detecting in a whole head with the packaged threshold. CPU seconds, which other
work on the machine hardly moves, and peak memory, each measured in a process of its own. Writes data/results/bench_path.json."""

import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULT = Path(__file__).parent.parent / "data" / "results" / "bench_path.json"
STEPS = {
    "20 slices and twin": "for i in range(5): make_phantom('glioma', 0, i, range(70, 90))",
    "20 slices, no twin": "for i in range(5): make_phantom('glioma', 0, i, range(70, 90), twin=False)",
    "whole head and twin": "p = make_phantom('glioma', 0, 3)",
    "write a whole head and twin": "write_phantom(p, d)",
    "detect in a whole head": "detect_many([next(Path(d).iterdir())], load_detector('threshold-flair'), d + '/out')",
}
TIMES = {"20 slices and twin": 5, "20 slices, no twin": 5}  # how often a step repeats what it is named after
BEFORE = {
    "write a whole head and twin": "p = make_phantom('glioma', 0, 3)",
    "detect in a whole head": "write_phantom(make_phantom('glioma', 0, 3, twin=False), d)",
}
CODE = """
import json, resource, tempfile, time
from pathlib import Path
import torch
from mmccd.detect import detect_many
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom, write_phantom
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as d:
    make_phantom('glioma', 0, 0, range(80, 81))      # loads the atlas
    {before}
    start = time.process_time()
    {step}
    used = time.process_time() - start
    size = sum(f.stat().st_size for f in Path(d).rglob('*.gz'))
print(json.dumps(dict(cpu_s=used, peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, written_mb=size / 2**20)))
"""


def measure(name):
    code = CODE.format(before=BEFORE.get(name, "pass"), step=STEPS[name])
    env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    row = json.loads(done.stdout)
    if not name.startswith("write"):
        del row["written_mb"]
    return row | dict(cpu_s=row["cpu_s"] / TIMES.get(name, 1))


def main():
    rows = {}
    for name in STEPS:
        rows[name] = {k: round(v, 2 if k == "cpu_s" else 0) for k, v in measure(name).items()}
        print(f"{name:28} {rows[name]['cpu_s']:6.2f} s of one core, peak {rows[name]['peak_mb']:5.0f} MB")
    RESULT.write_text(
        json.dumps(
            dict(
                command="python tools/bench_path.py",
                date=date.today().isoformat(),
                seed=0,
                data="phantom 1, glioma",
                device=f"cpu ({platform.machine()}, one thread)",
                steps=rows,
            ),
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
