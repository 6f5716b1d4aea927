"""How long the explorer waits for a new strip, on a machine that has PyTorch and none of the packages that read scans.

    python experiments/gpu_explorer.py --data slices.safetensors --device cuda --out bench_explorer_engine.json

The engine of the explorer and its networks are those of `mmccd explore`; the head is one of those that
pack_slices.py wrote. What is not measured here is the drawing of the picture, for which see benchmarks/explorer.py.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import run_script
from pack_slices import PackedSlices

from mmccd.detector import fingerprint
from mmccd.explorer.choose import first_view
from mmccd.explorer.engine import Engine
from mmccd.explorer.subjects import Subject
from mmccd.explorer.view import SWEEPS, View
from mmccd.files import round_floats, to_json, write_atomic
from mmccd.slices import to_volume

GOAL = 0.1  # seconds of a new strip on a GPU


@dataclass
class PackedHead:
    """What the engine takes of a case, made of packed slices, which are normalised already."""

    id: str
    volumes: dict[str, np.ndarray]
    brain: np.ndarray
    affine: np.ndarray
    lesion: None = field(default=None)

    def normalised(self, modality: str, method: str) -> np.ndarray:
        """The volume of a modality."""
        return self.volumes[modality]


def load_head(path: Path) -> Subject:
    """The first of the packed heads, as a subject of the explorer."""
    slices = PackedSlices.load(path)
    slices = slices.of_heads(slices.head[:1].tolist())
    batch, recipe = slices.batch(range(len(slices))), slices.recipe
    side = recipe["fov"] / recipe["size"]
    volumes = {m: to_volume(batch[m]) for m in recipe["modalities"]}
    head: Any = PackedHead("packed", volumes, to_volume(batch["brain"]), np.diag([side, side, 5.0, 1.0]))
    return Subject(head, None, "packed slices")


def seconds_of(engine: Engine, view: View) -> dict[str, Any]:
    """Seconds until the strip of `view` is computed, and how often a network ran."""
    calls: list[object] = []
    engine.on_evaluation = calls.append
    begin = time.perf_counter()
    engine.trace(view)  # on the CPU at its end, so the GPU is waited for
    return {"seconds": time.perf_counter() - begin, "evaluations": len(calls) + len(set(calls))}


def measure(path: Path, device: str, positions: int, paper: bool) -> dict[str, Any]:
    """Seconds of strips that were never computed before.

    Args:
        path: Packed slices.
        device: Where the networks run.
        positions: How many strips.
        paper: Also one with the steps of the paper.
    """
    engine = Engine(load_head(path), device=device)
    first = first_view(engine, start=0)
    for start in (0, 1):  # networks and kernels are warm
        seconds_of(engine, replace(first, start=start))
    places = [(start, vertical) for start in range(8, engine.size - 16) for vertical in (True, False)]
    chosen = random.Random(0).sample(places, positions)
    runs = [seconds_of(engine, replace(first, start=start, vertical=vertical)) for start, vertical in chosen]
    seconds = [run["seconds"] for run in runs]
    strip = {"median": float(np.median(seconds)), "p90": float(np.percentile(seconds, 90)), "runs": seconds}
    found: dict[str, Any] = {"strip": strip | {"evaluations": sorted({run["evaluations"] for run in runs})}}
    if paper:
        steps = SWEEPS["paper"].steps
        found["strip paper"] = seconds_of(engine, replace(first, sampler="paper", steps=steps, step=steps))
    gpu = device == "cuda"
    met = strip["median"] <= GOAL if gpu else None
    return found | {
        "goal": {"name": "a new strip with fast on a GPU: s", "goal": GOAL, "measured": strip["median"], "met": met},
        "networks": fingerprint(engine.detector(first)),
        "size": engine.size,
        "device": torch.cuda.get_device_name() if gpu else "cpu",
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="slices from pack_slices.py")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--positions", type=int, default=20, help="strips to measure")
    parser.add_argument("--no-paper", action="store_true", help="without the strip with the steps of the paper")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(argv)
    found = measure(args.data, args.device, args.positions, not args.no_paper)
    about = {"date": date.today().isoformat(), "torch": torch.__version__}
    write_atomic(args.out, to_json(round_floats(about | found)).encode())
    print(json.dumps(found["goal"]))
    return 0


if __name__ == "__main__":
    run_script(main)
