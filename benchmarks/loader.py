"""How long does a training wait for its slices? A stand-in for a step sleeps 20 ms; the rest is waiting.

Slices kept in memory, and read from a store by the training itself or by processes that read ahead; store in a folder
and, as one in a bucket is read, behind an fsspec URL. `cpu_ms_a_step` is what the training's own process computes: with
no workers, all that reading takes, however busy the machine is. Writes data/results/bench_loader.json.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import about, check_out, cpu_name, make_parser, process_mb, versions, write_result

STEP = 0.020  # seconds of the stand-in
HEADS, STEPS, BATCH, SIZE = 40, 200, 32, 128  # of the store, of a run, of a step, of a slice
WARM_UP = 20  # steps that fill what is read ahead; they are not counted
WAYS = (("memory", 0), ("folder", 0), ("folder", 1), ("folder", 2), ("URL", 2))  # where slices are, and who reads


def make_store(folder: Path, heads: int) -> Path:
    """A store of healthy phantoms."""
    from mmccd.cases.phantoms import Phantoms
    from mmccd.cases.prepare import prepare

    raw = Phantoms(healthy=heads, seed=0)
    prepare(raw, folder / "s.zarr", SIZE, range(70, 90), ["flair", "t2"], progress=False)
    return folder / "s.zarr"


def measure(store: Path, where: str, workers: int, steps: int) -> dict[str, Any]:
    """Share of the time that is waited, and what a step takes."""
    from mmccd.cases.store import SliceStore
    from mmccd.training.loader import PieceLoader
    from mmccd.training_loop import Batches, TrainConfig

    place = f"file://{store}" if where == "URL" else store
    data = SliceStore(place).dataset(in_memory=where == "memory")
    config, waited, cpu = TrainConfig(steps=WARM_UP + steps, batch_size=BATCH), 0.0, 0.0
    pieces, start = iter(PieceLoader(Batches(data, config), workers, gpu=True)), time.perf_counter()
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            start, waited, cpu = time.perf_counter(), 0.0, time.process_time()
        before = time.perf_counter()
        next(pieces)
        waited += time.perf_counter() - before
        time.sleep(STEP)
    total, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "slices": where,
        "workers": workers,
        "waiting": waited / total,
        "ms_a_step": 1000 * total / steps,
        "cpu_ms_a_step": 1000 * cpu / steps,
        "slices_a_second": BATCH * steps / total,
        "peak_mb": process_mb(),
    }


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_loader")
    parser.add_argument("--quick", action="store_true", help="a small store and few steps: does it run?")
    args = parser.parse_args(argv)
    check_out(args.out)
    heads, steps = (2, 5) if args.quick else (HEADS, STEPS)
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), heads)
        megabytes = sum(p.stat().st_size for p in store.rglob("*") if p.is_file()) / 1e6
        for where, workers in WAYS[:3] if args.quick else WAYS:
            row = measure(store, where, workers, steps)
            rows.append(row)
            print(f"{where:8} {workers} workers: waits {row['waiting']:.1%} of the time", file=sys.stderr)
    facts = {
        "seed": 0,
        "data": f"{heads} healthy phantoms, 20 slices of {SIZE}×{SIZE}, FLAIR and T2: {megabytes:.0f} MB on disk",
        "device": cpu_name(f"{os.cpu_count()} cores"),
        "load_before": load,
        "versions": versions("torch", "zarr"),
        "step_ms": 1000 * STEP,
        "batch": BATCH,
        "steps": steps,
    }
    write_result(args.out, about("loader", argv) | facts | {"rows": rows})


if __name__ == "__main__":
    main()
