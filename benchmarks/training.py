"""What a training step costs: the loop as published, and ours.

Published: float32, one strip for the whole batch, AdamW and nothing else. Ours: what `mmccd train` does in a step (its
loss, clipping, the moving average), on a GPU in bf16 and channels-last, and compiled with --compile. The network of the
published method, same slices, in turns. The slices are noise, whose values cost nothing: neither phantoms nor scans are
needed. Writes data/results/bench_training.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from common import about, check_out, cpu_name, make_parser, process_mb, versions, write_result
from torch import Tensor, nn

from mmccd.masked_diffusion import MMCCD
from mmccd.runtime import pick_device
from mmccd.training_loop import ema_average
from mmccd.unet import count_parameters

SIZES = {"tiny": (64, 16), "paper": (128, 32)}  # pixels along a side, slices a step


def noise_batch(size: int, n: int, device: str) -> dict[str, Tensor]:
    """Slices of noise in a round brain."""
    generator = torch.Generator().manual_seed(0)
    line = torch.linspace(-1, 1, size)
    brain = (line[:, None] ** 2 + line**2 < 0.8).expand(n, 1, size, size)
    made = {m: torch.where(brain, torch.randn(n, 1, size, size, generator=generator), -1.0) for m in ("flair", "t2")}
    return {k: v.to(device) for k, v in (made | {"brain": brain}).items()}


def published_step(detector: MMCCD, batch: dict[str, Tensor], generator: torch.Generator) -> Callable[[], None]:
    """A step of both networks, equations (1) to (4), as the published code takes it."""
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4)
    x, y, n = batch["flair"], batch["t2"], len(batch["brain"])
    abar, size = detector.f.abar.to(x.device), x.shape[-1]

    def step() -> None:
        t = torch.randint(len(abar), (n,), generator=generator, device=x.device)
        first = int(torch.randint(size - size // 8, (1,)))
        m = torch.zeros_like(x)
        m[..., first : first + size // 8] = 1
        cond = (1 - m) * x + m * torch.randn(x.shape, generator=generator, device=x.device)
        eps = torch.randn(x.shape, generator=generator, device=x.device)
        a = abar[t].float().reshape(-1, 1, 1, 1)
        label = detector.label(n)
        loss = ((detector.f(cond, label, a.sqrt() * y + (1 - a).sqrt() * eps, t) - y) ** 2).mean()
        loss = loss + ((detector.translate_back(y, batch["brain"]) - x) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def our_step(
    detector: MMCCD, batch: dict[str, Tensor], generator: torch.Generator, gpu: bool, compiled: bool
) -> Callable[[], None]:
    """A step as `mmccd train` takes it."""
    average = torch.optim.swa_utils.AveragedModel(detector, avg_fn=partial(ema_average, decay=0.999))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-4, fused=gpu)
    if gpu:
        detector.to(memory_format=torch.channels_last)
    loss_of: Callable[..., Tensor] = torch.compile(detector.loss) if compiled else detector.loss

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16) if gpu else nullcontext():
            loss = loss_of(batch, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(detector)

    return step


def timed(step: Callable[[], None], device: str) -> float:
    """Seconds of a step."""
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def bench(name: str, size: int, n: int, device: str, steps: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds of a step both ways, medians of steps taken in turns."""
    batch, made = noise_batch(size, n, device), {}
    for way in ("published", "ours"):
        torch.manual_seed(0)
        detector = MMCCD(size=size, unet=name, **({"imagination": "published"} if way == "published" else {})).to(
            device
        )
        generator = torch.Generator(device).manual_seed(0)
        if way == "published":
            made[way] = published_step(detector, batch, generator)
        else:
            made[way] = our_step(detector, batch, generator, device == "cuda", compiled)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds: dict[str, list[float]] = {way: [] for way in made}
    for k in range(steps + 2):  # two that warm up
        for way, step in made.items():
            seconds[way] += [timed(step, device)] * (k > 1)
    ms = {way: 1000 * statistics.median(found) for way, found in seconds.items()}
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else process_mb()
    return {
        "network": name,
        "size": size,
        "batch": n,
        "parameters": count_parameters(detector),
        "steps": steps,
        "ms": ms,
        "slices_a_second": {way: 1000 * n / v for way, v in ms.items()},
        "ratio": ms["published"] / ms["ours"],
        "peak_mb": peak,
    }


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_training")
    parser.add_argument("--quick", action="store_true", help="two steps of a small batch: does it run?")
    parser.add_argument("--compile", action="store_true", help="torch.compile for ours")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=SIZES, help="default: tiny, and paper on a GPU")
    args = parser.parse_args(argv)
    check_out(args.out)
    device = pick_device(args.device)
    names = args.networks or (["tiny", "paper"] if device == "cuda" else ["tiny"])
    if device == "cpu":
        torch.set_num_threads(1)
    rows = []
    for name in names:
        size, n = SIZES[name]
        rows.append(bench(name, size, 2 if args.quick else n, device, 2 if args.quick else 10, args.compile))
        print(f"{name}: {rows[-1]['ms']}, ratio {rows[-1]['ratio']:.2f}")
    facts = {
        "seed": 0,
        "data": "noise in a round brain",
        "device": cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        "arithmetic": "float32" if device == "cpu" else "published float32, ours bf16 and channels-last",
        "compiled": args.compile,
        "versions": versions("torch"),
    }
    write_result(args.out, about("training", argv) | facts | {"rows": rows})


if __name__ == "__main__":
    main()
