"""What a masked cycle costs, and what is saved.

The loop as published, written out below from its definitions (one mask at a time on the slices as they come, each of
100 DDIM steps, float32, no mask left out), against the samplers `paper` (the same computation, many masks at once) and
`fast` of this package, with the same weights and the same noise: seconds, network evaluations and peak memory for a
slice, and how far the map of `paper` is from that of the loop. Each way runs in a process of its own, `fast` in three
that lie before, between and after the others. On a GPU ours run in bf16 and channels-last (compiled with --compile),
also with a network of the published size and random weights, and for a volume of 155 slices. Writes
data/results/bench_inference.json.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, about, check_out, cpu_name, make_parser, process_mb, write_result

import mmccd
from mmccd.detector import Detector, fingerprint, load_detector
from mmccd.intensity import BACKGROUND
from mmccd.masked_diffusion import MMCCD, with_config
from mmccd.masked_translation import SAMPLERS, fixed_noises
from mmccd.masking import MaskPlan
from mmccd.runtime import pick_device
from mmccd.slices import resize, resize_labels
from mmccd.translate import fill_background
from mmccd.unet import count_parameters

RESULT = RESULTS / "bench_inference.json"
PUBLISHED_SIZE, WHOLE = "published size, random weights", 155
ORDER = ("fast", "loop", "fast", "paper", "fast")
SAMPLER = {"paper": SAMPLERS["paper"], "fast": SAMPLERS["fast"], "volume": SAMPLERS["fast"]}


# the published loop


def published_loop(f, g, x: torch.Tensor, start: torch.Tensor, hidden: torch.Tensor, steps=100, T=1000) -> torch.Tensor:
    """The anomaly map (b 1 h w) of MMCCD (1), (5) and (6), one strip at a time.

    Args:
        f: The network to the target: (y_t, condition, t) -> y.
        g: The network back: y -> x.
        x: Slices (b 1 h w).
        start: Noise that the diffusion starts from (1 1 h w).
        hidden: Noise that stands where the strip is (1 1 h w).
        steps: Of DDIM.
        T: Of the schedule.
    """
    betas = torch.linspace(1e-4, 2e-2, T, dtype=torch.float64)
    abar = [*torch.cumprod(1 - betas, 0).tolist(), 1.0]  # the last one: before the first step
    size, apart = x.shape[-1], T // steps
    width = max(size // 8, 1)
    total, hits = torch.zeros_like(x), torch.zeros_like(x)
    for vertical in (True, False):
        for first in range(0, size, max(width // 8, 1)):
            m = torch.zeros_like(x)
            (m if vertical else m.mT)[..., first : first + width] = 1
            cond, y = (1 - m) * x + m * hidden, start.expand_as(x)
            for k in reversed(range(steps)):
                now, then = abar[k * apart], abar[(k - 1) * apart if k else -1]
                y0 = f(y, cond, k * apart)
                eps = (y - now**0.5 * y0) / (1 - now) ** 0.5
                y = then**0.5 * y0 + (1 - then) ** 0.5 * eps
            total, hits = total + m * (g(y) - x) ** 2, hits + m
    return total / hits


class CountedNetworks:
    """f and g of a detector as the loop calls them, counted. Outside the brain stands -1, as they were trained."""

    def __init__(self, detector: Detector, brain: torch.Tensor):
        self.detector, self.brain, self.calls = detector, brain, 0

    def f(self, y_t: torch.Tensor, cond: torch.Tensor, t: int) -> torch.Tensor:
        self.calls += len(cond)
        steps = torch.full((len(cond),), t, device=cond.device)
        return fill_background(self.detector.f(cond, self.detector.label(len(cond)), y_t, steps), self.brain)

    def g(self, y: torch.Tensor) -> torch.Tensor:
        self.calls += len(y)
        return self.detector.translate_back(y, self.brain)


# one way in one process


@dataclass(frozen=True)
class Arithmetic:
    """How the package's own samplers run: in bf16 and channels-last, compiled, so many slices at a time."""

    quick: bool = False
    compiled: bool = False
    at_once: int = 64


@dataclass(frozen=True)
class Task:
    """One way of one network on some slices (images and brain), timed `repeats` times."""

    way: str
    weights: str
    device: str
    slices: tuple[np.ndarray, np.ndarray]
    repeats: int = 1
    how: Arithmetic = Arithmetic()


def build(weights: str) -> Detector:
    """The detector to be timed."""
    if weights != PUBLISHED_SIZE:
        return load_detector(weights)
    torch.manual_seed(0)
    detector = MMCCD(size=128, unet="paper").eval()
    for p in detector.parameters():
        p.data += 0.02 * torch.randn_like(p)  # an untrained U-Net of ours ends in zeros
    return detector


def prepare_loop(detector: Detector, x: torch.Tensor, brain: torch.Tensor) -> tuple[Callable, Callable, Callable]:
    """As `prepare_way`, for the loop as published."""
    net, (start, hidden, _) = CountedNetworks(detector, brain), fixed_noises(x.shape[-1], x.device)
    steps, T = SAMPLER["paper"].steps, len(detector.f.abar)

    def run() -> torch.Tensor:
        net.calls = 0
        a = published_loop(net.f, net.g, fill_background(x, brain), start, hidden, steps, T)
        return torch.where(brain, a, 0.0)

    return run, lambda: net.g(net.f(start.expand_as(x), x, 0)), lambda: net.calls


def prepare_way(
    way: str, detector: Detector, x: torch.Tensor, brain: torch.Tensor, how: Arithmetic = Arithmetic()
) -> tuple[Callable, Callable, Callable]:
    """What is timed, a shorter run to get warm, and a function that says how many network evaluations were needed."""
    if way == "loop":
        return prepare_loop(detector, x, brain)
    ours = with_config(detector, sampler=SAMPLER[way])
    ours.at_once, s = how.at_once, ours.config.sampler
    if how.quick:
        ours.to(memory_format=torch.channels_last)
    if how.compiled:
        ours.f.net.compile()
        ours.g.compile()

    def run() -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16) if how.quick else nullcontext():
            return ours.anomaly_map(x, brain)

    def short() -> torch.Tensor:
        return with_config(ours, sampler=SAMPLER["fast"]).anomaly_map(x, brain)

    def count() -> int:
        return MaskPlan(s.family(x.shape[-1]).to(x.device), brain, skip=s.skip).cost(s.steps)

    return run, run if how.quick else short, count  # a GPU's kernels are chosen and compiled for what will run


@torch.no_grad()
def measure(task: Task) -> dict[str, Any]:
    """Seconds and CPU seconds of every repeat, network evaluations, memory, and the map itself."""
    device, gpu = torch.device(task.device), task.device == "cuda"
    if not gpu:
        torch.set_num_threads(1)
    sync = torch.cuda.synchronize if gpu else lambda: None
    x, brain = (torch.from_numpy(v).to(device) for v in task.slices)
    run, warm, calls = prepare_way(task.way, build(task.weights).to(device), x, brain, task.how)
    warm()
    sync()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    loaded = torch.cuda.memory_allocated() / 2**20 if gpu else process_mb("VmRSS")
    seconds, cpu = [], []
    for _ in range(task.repeats):
        wall, used = time.perf_counter(), time.process_time()
        a = run()
        sync()
        seconds.append((time.perf_counter() - wall) / len(x))
        cpu.append((time.process_time() - used) / len(x))
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "evaluations": calls() / len(x),
        "loaded_mb": loaded,
        "peak_mb": torch.cuda.max_memory_allocated() / 2**20 if gpu else process_mb(),
        "map": a.float().cpu().numpy(),
    }


def in_own_process(task: Task) -> dict[str, Any]:
    """`measure` in a fresh process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, task).result()


# all ways


def packed_slices(n: int, config: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """As `some_slices`, of what experiments/pack_slices.py wrote; from the beginning again where there are too few."""
    sys.path.append(str(ROOT / "experiments"))
    from pack_slices import PackedSlices

    found = PackedSlices.load(path)
    batch = found.batch([k % len(found) for k in range(n)])
    x = resize(batch[config.input], config.size, BACKGROUND.get(config.normalisation, -1.0))
    return x.numpy(), resize_labels(batch["brain"], config.size).numpy()


def some_slices(n: int, config: Any, packed: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slices of a phantom and their brain, at the size of the detector: a whole head, or those from place 80 up."""
    if packed:
        return packed_slices(n, config, packed)
    from mmccd.cases.case import Case
    from mmccd.phantom import make_phantom

    places = None if n == WHOLE else range(80, 80 + n)
    case = Case.from_phantom(make_phantom("glioma", 0, 0, places, twin=False), modalities=[config.input])
    x = case.slices(config.input, method=config.normalisation)
    x = resize(x, config.size, BACKGROUND.get(config.normalisation, -1.0))
    return x.numpy(), resize_labels(case.brain_slices(), config.size).numpy()


def join_runs(parts: list[dict]) -> dict[str, Any]:
    """The runs of one way, from all its processes."""
    runs = {k: [v for p in parts for v in p[k]] for k in ("seconds", "cpu_seconds")}
    return {
        "seconds": statistics.median(runs["seconds"]),
        "cpu_seconds": statistics.median(runs["cpu_seconds"]),
        "runs": runs["seconds"],
        "evaluations": parts[0]["evaluations"],
        "loaded_mb": max(p["loaded_mb"] for p in parts),
        "peak_mb": max(p["peak_mb"] for p in parts),
    }


def map_distance(a: np.ndarray, b: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Largest difference of map `a` from map `b`, and as a share of the 99th percentile of `b` inside the brain."""
    p99 = float(torch.from_numpy(b[brain]).quantile(0.99))
    most = float(abs(a - b).max())
    return {"max_difference": most, "p99_of_loop": p99, "share": most / p99}


def goal(what: str, value: float | None, least=None, most=None, here: bool = True) -> dict[str, Any]:
    """A goal and whether it is met; None where it is not about this machine or network."""
    met = None if not here else value >= least if least is not None else value <= most
    return {"goal": what, "value": value if here else None, "met": met}


def list_goals(ways: dict, ratios: dict, share: float, gpu: bool, h200: bool) -> list[dict[str, Any]]:
    """What was aimed at, and what became of it."""
    volume = ways["volume"]["seconds"] * WHOLE if gpu else None
    return [
        goal("fast at least 200 times as fast as the loop, in seconds", ratios["loop / fast"], least=200),
        goal("paper at least 3 times as fast as the loop, on a GPU", ratios["loop / paper"], least=3, here=gpu),
        goal("map of paper within 2 % of the 99th percentile of that of the loop", share, most=0.02),
        goal("stretch, H200: paper for one 128x128 slice in at most 1 s", ways["paper"]["seconds"], most=1, here=h200),
        goal("stretch, H200: fast for a volume of 155 slices in at most 2 s", volume, most=2, here=h200),
    ]


def bench(
    weights: str, device: str, slices: int, repeats: int, how: Arithmetic, packed: Path | None = None
) -> dict[str, Any]:
    """All ways of one network."""
    gpu, detector = device == "cuda", build(weights)
    task = Task("", weights, device, some_slices(slices, detector.config, packed))
    parts: dict[str, list] = {}
    for way in ORDER + ("volume",) * gpu:
        own = replace(task, way=way, how=Arithmetic() if way == "loop" else how)
        if (gpu and way != "loop") or way == "fast":
            own = replace(own, repeats=repeats)
        if way == "volume":
            own = replace(own, slices=some_slices(WHOLE, detector.config, packed))
        parts.setdefault(way, []).append(got := in_own_process(own))
        print(
            f"{weights}, {way}: {got['seconds'][0]:.4g} s and {got['evaluations']:,.0f} evaluations a slice, "
            f"peak {got['peak_mb']:.0f} MB",
            flush=True,
        )
    ways, size = {way: join_runs(p) for way, p in parts.items()}, detector.config.size
    ratios = {f"loop / {w}": ways["loop"]["seconds"] / ways[w]["seconds"] for w in ("paper", "fast")}
    distance = map_distance(parts["paper"][0]["map"], parts["loop"][0]["map"], task.slices[1])
    h200 = gpu and "H200" in torch.cuda.get_device_name() and size == 128
    return {
        "size": size,
        "parameters": {"there": count_parameters(detector.f), "back": count_parameters(detector.g)},
        "fingerprint": fingerprint(detector),
        "ways": ways,
        "ratios": ratios,
        "paper against loop": distance,
        "goals": list_goals(ways, ratios, distance["share"], gpu, h200),
    }


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__, "bench_inference")
    parser.add_argument("--weights", default="mmccd-published-flair-t2", help="of the package, or a folder")
    parser.add_argument("--slices", type=int, default=1, help="how many at a time")
    parser.add_argument("--repeats", type=int, default=3, help="of what is quick, in each process")
    parser.add_argument("--at-once", type=int, default=64, help="slices that our samplers give a network at once")
    parser.add_argument("--compile", action="store_true", help="torch.compile for our samplers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--packed", type=Path, help="slices from experiments/pack_slices.py, in place of a phantom")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    check_out(args.out)
    if args.slices < 1 or args.repeats < 1 or args.at_once < 1:
        raise ValueError("--slices, --repeats and --at-once must be at least 1")
    gpu, compiled = device == "cuda", ", compiled" * args.compile
    how = Arithmetic(gpu, args.compile, args.at_once)
    networks = (args.weights, *([PUBLISHED_SIZE] if gpu else []))
    result = about("inference", argv) | {
        "device": torch.cuda.get_device_name() if gpu else cpu_name(),
        "torch": torch.__version__,
        "mmccd": mmccd.__version__,
        "slices": args.slices,
        "at_once": args.at_once,
        "arithmetic": {"loop": "float32", "ours": ("bf16, channels-last" if gpu else "float32") + compiled},
        "units": "seconds, cpu_seconds and evaluations for a slice, medians over runs; peak_mb of a process of its own "
        "(of the GPU where there is one), loaded_mb before the first run",
        "networks": {w: bench(w, device, args.slices, args.repeats, how, args.packed) for w in networks},
    }
    write_result(args.out, result)
    for name, r in result["networks"].items():
        for g in r["goals"]:
            value = (
                "not on this machine" if g["met"] is None else f"{g['value']:.4g}, {'met' if g['met'] else 'missed'}"
            )
            print(f"{name}: {g['goal']}: {value}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
