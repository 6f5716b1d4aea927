"""What the benchmarks share: where a result goes, what is said about the machine, seconds and memory of a process."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmccd.files import round_floats, to_json, write_atomic

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""Environment of a process whose seconds shall not depend on how many cores there are."""


def make_parser(doc: str, name: str) -> argparse.ArgumentParser:
    """A parser that knows `--out`; without it a result replaces the one in data/results."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON to write")
    return parser


def check_out(out: Path) -> None:
    """Refuse a place where nothing can be written, before anything is measured.

    Raises:
        ValueError: Its folder does not exist.
    """
    if not out.parent.is_dir():
        raise ValueError(f"cannot write {out}: its folder does not exist")


def command_line(script: str, argv: list[str] | None) -> str:
    """The command that was given, without where its result goes."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return " ".join([f"python benchmarks/{script}.py", *words])


def about(script: str, argv: list[str] | None) -> dict[str, Any]:
    """How a result is made again, and when it was made."""
    recipe = f"experiments/recipes/bench_{script}.yaml"
    return {"recipe": recipe, "command": command_line(script, argv), "date": date.today().isoformat()}


def write_result(out: Path, result: dict[str, Any]) -> None:
    """Write a result, its numbers to five digits."""
    write_atomic(out, to_json(round_floats(result)).encode())


def cpu_name(more: str = "one thread") -> str:
    """The device where it is no GPU."""
    return f"cpu ({platform.machine()}, {more})"


def versions(*packages: str) -> dict[str, str]:
    """Versions of these packages and of Python."""
    return {p: version(p) for p in packages} | {"python": platform.python_version()}


def process_mb(what: str = "VmHWM") -> float:
    """Megabytes of this process: `VmRSS` (now) or `VmHWM` (at most so far)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb(pid: int) -> float:
    """Megabytes that a process and its children hold now; what they share counts for each of them."""
    total, waiting = 0, [pid]
    while waiting:
        p = waiting.pop()
        try:
            total += int(Path(f"/proc/{p}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            tasks = Path(f"/proc/{p}/task").iterdir()
            waiting += [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except (OSError, IndexError):
            pass
    return total / 1e6
