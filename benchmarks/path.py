"""What the first path costs on one core: phantoms, writing them, and detecting in a whole head.

CPU seconds, which other work on the machine hardly moves, and peak memory, each measured in a process of its own.
Writes data/results/bench_path.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from common import ONE_THREAD, about, check_out, cpu_name, make_parser, write_result


@dataclass(frozen=True)
class Step:
    """A piece of Python that is timed; `before` is done first, and the time is divided by `times`."""

    code: str
    before: str = "pass"
    times: int = 1


STEPS = {
    "20 slices and twin": Step("for i in range(5): make_phantom('glioma', 0, i, range(70, 90))", times=5),
    "20 slices, no twin": Step("for i in range(5): make_phantom('glioma', 0, i, range(70, 90), twin=False)", times=5),
    "whole head and twin": Step("make_phantom('glioma', 0, 3)"),
    "write a whole head and twin": Step("write_phantom(p, d)", "p = make_phantom('glioma', 0, 3)"),
    "detect in a whole head": Step(
        "detect_many([next(Path(d).iterdir())], load_detector('threshold-flair'), d + '/out')",
        "write_phantom(make_phantom('glioma', 0, 3, twin=False), d)",
    ),
    "detect in a whole head with the default sum": Step(
        "detect_many([next(Path(d).iterdir())], load_detector('ensemble'), d + '/out')",
        "write_phantom(make_phantom('glioma', 0, 3, twin=False), d)",
    ),
}
CODE = """
import json, resource, tempfile, time
from pathlib import Path
import torch
from mmccd.cases.phantoms import write_phantom
from mmccd.detection.detect import detect_many
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
torch.set_num_threads(1)
with tempfile.TemporaryDirectory() as d:
    make_phantom('glioma', 0, 0, range(80, 81))      # loads the atlas
    {before}
    start = time.process_time()
    {code}
    used = time.process_time() - start
    size = sum(f.stat().st_size for f in Path(d).rglob('*.gz'))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(dict(cpu_s=used, peak_mb=peak, written_mb=size / 2**20)))
"""


def measure(name: str) -> dict[str, float]:
    """CPU seconds, peak megabytes and (where files are written) their megabytes of one step."""
    step = STEPS[name]
    words = [sys.executable, "-c", CODE.format(code=step.code, before=step.before)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=os.environ | ONE_THREAD)
    row = json.loads(done.stdout)
    if not name.startswith("write"):
        del row["written_mb"]
    row["cpu_s"] /= step.times
    return {k: round(v, 2 if k == "cpu_s" else 0) for k, v in row.items()}


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_path")
    parser.add_argument("--quick", action="store_true", help="only the phantoms of 20 slices: does it run?")
    args, rows = parser.parse_args(argv), {}
    check_out(args.out)
    for name in list(STEPS)[: 2 if args.quick else None]:
        row = rows[name] = measure(name)
        print(f"{name:44} {row['cpu_s']:6.2f} s of one core, peak {row['peak_mb']:5.0f} MB")
    facts = {"seed": 0, "data": "phantom 1, glioma", "device": cpu_name()}
    write_result(args.out, about("path", argv) | facts | {"steps": rows})


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
