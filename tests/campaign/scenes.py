"""Commands to be disturbed: what they need, the folder that they write, what is in it if nothing disturbs them."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attack_files import make_store
from forks import Call, Command, in_fork
from toy_cases import write_case
from toy_detection import DETECT

TIMES = {"seconds", "date", "command", "log.csv"}  # what differs between two runs that do the same; a log has seconds
MINE = "notes of mine.txt"


def timeless(found: Any) -> Any:
    """Parsed JSON without what says when and how something was made, and whether at the first try."""
    if isinstance(found, dict):
        sealed = {"sha256"} if "seconds" in found else set()  # over the seconds, too
        return {k: timeless(v) for k, v in found.items() if k not in TIMES | sealed}
    if isinstance(found, list):
        return [timeless(v) for v in found]
    return "done" if found == "skipped" else found


def snapshot(folder: Path) -> dict[str, str]:
    """Everything below a folder, hidden files too, by hash of what must not depend on what happened on the way."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name, content = path.relative_to(folder).as_posix(), b""
        if path.is_dir():
            if any(path.iterdir()):
                continue
        else:
            content = path.read_bytes()
        if path.suffix == ".json":
            content = json.dumps(timeless(json.loads(content))).encode()
        elif path.name == "log.csv":
            content = b"\n".join(line.rpartition(b",")[0] for line in content.splitlines())  # seconds come last
        elif path.name == "README.md":
            content = re.sub(rb"\| made \|.*", b"", content)
        elif path.suffix == ".ckpt" and not path.name.startswith("."):  # holds seconds, too
            content = tensors_of(content)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def tensors_of(checkpoint: bytes) -> bytes:
    """The bytes of all tensors of a network in a checkpoint, checksum at its end included."""
    import torch

    state = torch.load(io.BytesIO(checkpoint[:-32]), weights_only=True)["state_dict"]
    return b"".join(k.encode() + state[k].numpy().tobytes() for k in sorted(state))


def changes(found: dict[str, str], wanted: dict[str, str]) -> str:
    """Which files are others, or more, or fewer, in words."""
    other = [n for n in wanted if n in found and found[n] != wanted[n]]
    more, gone = sorted(found.keys() - wanted.keys()), sorted(wanted.keys() - found.keys())
    parts = [("changed", other), ("left over", more), ("missing", gone)]
    return "; ".join(f"{what} {', '.join(names[:4])}" for what, names in parts if names)


@dataclass
class Scene:
    """A command that writes into a folder.

    Attributes:
        name: Of the command.
        out: The folder.
        first: What is run.
        again: What is run to go on.
        inputs: Folder with what it reads, which must stay as it is.
        mine: Does a file of the user's lie in `out` from the beginning?
        wanted: What is in `out` at the end.
        untouched: What is in `inputs`.
        seconds: What it takes undisturbed.
        size: Bytes in `out` at the end.
        largest: Bytes of the largest file.
    """

    name: str
    out: Path
    first: Callable[[], Any]
    again: Callable[[], Any]
    inputs: Path
    mine: bool = True
    wanted: dict[str, str] = field(default_factory=dict)
    untouched: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    size: int = 0
    largest: int = 0

    def fresh(self) -> None:
        """Make the folder as it is before the command."""
        shutil.rmtree(self.out, ignore_errors=True)
        if self.mine:
            self.out.mkdir(parents=True)
            (self.out / MINE).write_text("precious")

    def rehearse(self) -> Scene:
        """Run it undisturbed, and remember how that ends.

        Raises:
            RuntimeError: It fails.
        """
        for _ in range(2):  # the second time everything is as warm as it will be
            self.fresh()
            found = in_fork(self.first, 600)
            if fault := found.fault(0):
                raise RuntimeError(f"{self.name} fails even if nothing disturbs it: {fault}")
        files = [p.stat().st_size for p in self.out.rglob("*") if p.is_file()]
        self.wanted, self.seconds = snapshot(self.out), found.seconds
        self.size, self.largest = sum(files), max(files)
        self.untouched = snapshot(self.inputs)
        return self

    def fault(self) -> str:
        """What differs from the undisturbed end, in words."""
        lost = changes(snapshot(self.inputs), self.untouched)
        return f"the input: {lost}" if lost else changes(snapshot(self.out), self.wanted)


def blank_reports() -> None:
    """Draw reports with nothing on them: drawing takes longer than all the rest; the file is written all the same."""
    from mmccd.detection import report
    from mmccd.viz import Sheet

    report.report_figure = lambda found: Sheet(1, 1)


def detect_scene(work: Path, *more: str) -> Scene:
    """Three cases and a packaged threshold."""
    for i in range(3):
        write_case(work / "cases", f"c{i}", ("flair", "t2"), seed=i)
    words = [*DETECT, work / "cases", "--out", work / "out", "--input", "flair", *more]
    return Scene("detect", work / "out", Command(*words), Command(*words, "--skip-existing"), work / "cases")


def prepare_scene(work: Path) -> Scene:
    """Four cases; reading them takes longer than making slices of them."""
    for i in range(4):
        write_case(work / "cases", f"c{i}", ("flair", "t2"), seed=i)
    words = Command("prepare", work / "cases", work / "out", "--size", 16, "--fov", 32, "--min-brain", 1, "--jobs", 1)
    return Scene("prepare", work / "out", words, words, work / "cases", mine=False)


def train_words(store: Path, out: Path) -> list[object]:
    """A training of small networks for six steps."""
    words = ["train", "toy", store, "--input", "flair", "--target", "t2", "--preset", "smoke", "--device", "cpu"]
    return [*words, "--steps", 6, "--checkpoint-every", 2, "--out", out]


def train_scene(work: Path) -> Scene:
    """Small networks, a checkpoint every second step."""
    words = train_words(make_store(work), work / "out")
    return Scene("train", work / "out", Command(*words), Command(*words, "--resume"), work / "whole", mine=False)


def benchmark_scene(work: Path) -> Scene:
    """A benchmark of a network of four steps on five toy cases."""
    from mmccd.benchmark.plan import ScanSource

    store = make_store(work, 5, size=32)
    lists = {"train": ("c1", "c2"), "val": ("c3",), "test": ("c0", "c4")}
    for name, ids in lists.items():
        (store.parent / f"{name}.txt").write_text("\n".join(ids) + "\n")
    source = ScanSource(str(store), *(str(store.parent / f"{name}.txt") for name in lists))

    def run() -> None:
        from small_benchmark import ScanPlan

        from mmccd.benchmark.run import run_benchmark

        run_benchmark(ScanPlan(work / "out", "smoke", (("flair", "t2"),), ("dae",), scans=source), progress=False)

    return Scene("benchmark", work / "out", Call(run), Call(run), store, mine=False)


SCENES = {"detect": detect_scene, "prepare": prepare_scene, "train": train_scene, "benchmark": benchmark_scene}
