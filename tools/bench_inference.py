"""What a masked cycle costs, and what we save: python tools/bench_inference.py [--device cuda] [--compile]

The loop as published, written out below from its definitions (one mask at a time on the slices as they come, each of 100 DDIM steps, float32, no mask left
out), against our samplers `paper` (the same computation, many masks at once) and `fast`, with the same weights and the same noise: seconds, network
evaluations and peak memory for a slice, and how far the map of `paper` is from that of the loop. Each way runs in a process of its own, `fast` in three that
lie before, between and after the others. On a GPU ours run in bf16 and channels-last (compiled with --compile), also with a network of the published size
and random weights, and for a volume of 155 slices. Writes data/results/bench_inference.json."""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import torch

import mmccd
from mmccd.detector import fingerprint, load_detector
from mmccd.files import write_atomic
from mmccd.intensity import BACKGROUND
from mmccd.masked_diffusion import MMCCD, SAMPLERS, fixed_noises, with_config
from mmccd.masking import MaskPlan
from mmccd.runtime import pick_device
from mmccd.slices import resize, resize_labels
from mmccd.translate import fill_background
from mmccd.unet import count_parameters

RESULT = Path(__file__).parent.parent / "data" / "results" / "bench_inference.json"
PUBLISHED_SIZE, WHOLE = "published size, random weights", 155
ORDER = ("fast", "loop", "fast", "paper", "fast")
SAMPLER = {"paper": SAMPLERS["paper"], "fast": SAMPLERS["fast"], "volume": SAMPLERS["fast"]}


# the published loop


def published_loop(there, back, x, start, hidden, steps=100, T=1000):
    "MMCCD (1), (5) and (6): there(y_t, condition, t) and back(y) are the networks, x the slices (b 1 h w), start and hidden noise (1 1 h w)."
    abar = torch.cumprod(1 - torch.linspace(1e-4, 2e-2, T, dtype=torch.float64), 0).tolist() + [
        1.0
    ]  # the last: before the first step
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
                said = there(y, cond, k * apart)
                eps = (y - now**0.5 * said) / (1 - now) ** 0.5
                y = then**0.5 * said + (1 - then) ** 0.5 * eps
            total, hits = total + m * (back(y) - x) ** 2, hits + m
    return total / hits


class Networks:
    "f and g of a detector as the loop calls them; they count. Outside the brain stands -1, as they were trained."

    def __init__(self, detector, brain):
        self.detector, self.brain, self.calls = detector, brain, 0

    def there(self, y_t, cond, t):
        self.calls += len(cond)
        return fill_background(
            self.detector.f(cond, self.detector.label(len(cond)), y_t, torch.full((len(cond),), t, device=cond.device)),
            self.brain,
        )

    def back(self, y):
        self.calls += len(y)
        return self.detector.translate_back(y, self.brain)


# one way in one process


def build(weights):
    "The detector to be timed."
    if weights != PUBLISHED_SIZE:
        return load_detector(weights)
    torch.manual_seed(0)
    detector = MMCCD(size=128, unet="paper").eval()
    for p in detector.parameters():
        p.data += 0.02 * torch.randn_like(p)  # an untrained U-Net of ours ends in zeros
    return detector


def prepare_way(way, detector, x, brain, quick=False, compiled=False, at_once=64):
    "(what is to be timed, a shorter run to get warm, network evaluations for all slices or None where the run counts)"
    if way == "loop":
        net, (start, hidden, _) = Networks(detector, brain), fixed_noises(x.shape[-1], x.device)

        def run():
            net.calls = 0
            return torch.where(
                brain,
                published_loop(
                    net.there,
                    net.back,
                    fill_background(x, brain),
                    start,
                    hidden,
                    SAMPLER["paper"].steps,
                    len(detector.f.abar),
                ),
                0.0,
            )

        return run, lambda: net.back(net.there(start.expand_as(x), x, 0)), lambda: net.calls
    ours = with_config(detector, sampler=SAMPLER[way])
    ours.batch_size, s = at_once, ours.config.sampler
    if quick:
        ours.to(memory_format=torch.channels_last)
    if compiled:
        ours.f.net.compile()
        ours.g.compile()

    def run():
        with torch.autocast(x.device.type, torch.bfloat16) if quick else nullcontext():
            return ours.anomaly_map(x, brain)

    short = (
        (lambda: with_config(ours, sampler=SAMPLER["fast"]).anomaly_map(x, brain)) if not quick else run
    )  # kernels are chosen and compiled for what will run
    return run, short, lambda: MaskPlan(s.family(x.shape[-1]).to(x.device), brain, skip=s.skip).cost(s.steps)


def memory(what):
    "Megabytes of this process: VmRSS (now) or VmHWM (at most so far)."
    try:
        return next(
            int(line.split()[1]) / 1024
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith(what)
        )
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def measure(task):
    "A way, timed `repeats` times."
    device, gpu = torch.device(task["device"]), task["device"] == "cuda"
    if not gpu:
        torch.set_num_threads(1)
    sync = torch.cuda.synchronize if gpu else lambda: None
    x, brain = (torch.from_numpy(v).to(device) for v in task["slices"])
    run, warm, calls = prepare_way(task["way"], build(task["weights"]).to(device), x, brain, **task["how"])
    warm()
    sync()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    loaded, seconds, cpu = torch.cuda.memory_allocated() / 2**20 if gpu else memory("VmRSS"), [], []
    for _ in range(task["repeats"]):
        begin = time.perf_counter(), time.process_time()
        a = run()
        sync()
        seconds.append((time.perf_counter() - begin[0]) / len(x))
        cpu.append((time.process_time() - begin[1]) / len(x))
    peak = torch.cuda.max_memory_allocated() / 2**20 if gpu else memory("VmHWM")
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "evaluations": calls() / len(x),
        "loaded_mb": loaded,
        "peak_mb": peak,
        "map": a.float().cpu().numpy(),
    }


def apart(task):
    "`measure` in a fresh process, whose memory nothing else has touched."
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, task).result()


# all ways


def some_slices(n, config, seed=0):
    "Slices of one phantom and their brain, at the size of the detector; whole heads from the bottom, others from place 80 up."
    from mmccd.cases.case import Case
    from mmccd.phantom import make_phantom

    case = Case.from_phantom(
        make_phantom("glioma", seed, 0, None if n == WHOLE else range(80, 80 + n), twin=False),
        modalities=[config.input],
    )
    x = resize(
        case.slices(config.input, method=config.normalisation), config.size, BACKGROUND.get(config.normalisation, -1.0)
    )
    return x.numpy(), resize_labels(case.brain_slices(), config.size).numpy()


def joined(parts):
    "The runs of one way, from all its processes."
    every = {k: [v for p in parts for v in p[k]] for k in ("seconds", "cpu_seconds")}
    return {
        "seconds": statistics.median(every["seconds"]),
        "cpu_seconds": statistics.median(every["cpu_seconds"]),
        "runs": every["seconds"],
        "evaluations": parts[0]["evaluations"],
        "loaded_mb": max(p["loaded_mb"] for p in parts),
        "peak_mb": max(p["peak_mb"] for p in parts),
    }


def far(a, b, brain):
    "How far map `a` is from map `b`: largest difference, and as a share of the 99th percentile of `b` inside the brain."
    p99 = float(torch.from_numpy(b[brain]).quantile(0.99))
    most = float(abs(a - b).max())
    return {"max_difference": most, "p99_of_loop": p99, "share": most / p99}


def goal(what, value, least=None, most=None, here=True):
    "A goal of the plan; `met` is None where it is not about this machine or network."
    met = None if not here else value >= least if least is not None else value <= most
    return {"goal": what, "value": value if here else None, "met": met}


def bench(weights, options):
    "All ways of one network."
    gpu, detector = options.device == "cuda", build(weights)
    task = {
        "weights": weights,
        "device": options.device,
        "slices": some_slices(options.slices, detector.config),
        "how": {},
    }
    quick = {"quick": gpu, "compiled": options.compile, "at_once": options.at_once}
    parts = {}
    for way in ORDER + ("volume",) * gpu:
        own = {"way": way, "repeats": options.repeats if (gpu and way != "loop") or way == "fast" else 1} | (
            {} if way == "loop" else {"how": quick}
        )
        if way == "volume":
            own["slices"] = some_slices(WHOLE, detector.config)
        parts.setdefault(way, []).append(got := apart(task | own))
        print(
            f"{weights}, {way}: {got['seconds'][0]:.4g} s and {got['evaluations']:,.0f} evaluations a slice, peak {got['peak_mb']:.0f} MB",
            flush=True,
        )
    ways = {way: joined(p) for way, p in parts.items()}
    maps, brain = {way: p[0]["map"] for way, p in parts.items()}, task["slices"][1]
    size, ratios = (
        detector.config.size,
        {f"loop / {w}": ways["loop"]["seconds"] / ways[w]["seconds"] for w in ("paper", "fast")},
    )
    apart_by, h200 = (
        far(maps["paper"], maps["loop"], brain),
        gpu and "H200" in torch.cuda.get_device_name() and size == 128,
    )
    goals = [
        goal("fast at least 200 times as fast as the loop, in seconds", ratios["loop / fast"], least=200),
        goal("paper at least 3 times as fast as the loop, on a GPU", ratios["loop / paper"], least=3, here=gpu),
        goal("map of paper within 2 % of the 99th percentile of that of the loop", apart_by["share"], most=0.02),
        goal("stretch, H200: paper for one 128x128 slice in at most 1 s", ways["paper"]["seconds"], most=1, here=h200),
        goal(
            "stretch, H200: fast for a volume of 155 slices in at most 2 s",
            ways["volume"]["seconds"] * WHOLE if gpu else None,
            most=2,
            here=h200,
        ),
    ]
    return {
        "size": size,
        "parameters": {"there": count_parameters(detector.f), "back": count_parameters(detector.g)},
        "fingerprint": fingerprint(detector),
        "ways": ways,
        "ratios": ratios,
        "paper against loop": apart_by,
        "goals": goals,
    }


def options(argv):
    "What was asked for."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default="mmccd-flair-t2", help="of the package, or a folder")
    parser.add_argument("--slices", type=int, default=1, help="how many at a time")
    parser.add_argument("--repeats", type=int, default=3, help="of what is quick, in each process")
    parser.add_argument("--at-once", type=int, default=64, help="pictures that our samplers give a network at once")
    parser.add_argument("--compile", action="store_true", help="torch.compile for our samplers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(argv)


def written(argv):
    "The command without where its result goes."
    words = list(sys.argv[1:] if argv is None else argv)
    if "--out" in words:
        del words[(at := words.index("--out")) : at + 2]
    return " ".join(["python tools/bench_inference.py", *words])


def rounded(x):
    "Numbers to five digits."
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return float(f"{x:.5g}") if isinstance(x, float) else x


def main(argv=None):
    args = options(argv)
    args.device = pick_device(args.device)
    if not args.out.parent.is_dir():
        raise ValueError(f"cannot write {args.out}: its folder does not exist")
    if args.slices < 1 or args.repeats < 1 or args.at_once < 1:
        raise ValueError("--slices, --repeats and --at-once must be at least 1")
    gpu = args.device == "cuda"
    result = {
        "command": written(argv),
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if gpu else f"cpu ({platform.machine()}, one thread)",
        "torch": torch.__version__,
        "mmccd": mmccd.__version__,
        "slices": args.slices,
        "at_once": args.at_once,
        "arithmetic": {
            "loop": "float32",
            "ours": f"bf16, channels-last{', compiled' * args.compile}"
            if gpu
            else f"float32{', compiled' * args.compile}",
        },
        "units": "seconds, cpu_seconds and evaluations for a slice, medians over runs; peak_mb of a process of its own (of the GPU where there is one), loaded_mb before the first run",
        "networks": {w: bench(w, args) for w in (args.weights, *([PUBLISHED_SIZE] if gpu else []))},
    }
    write_atomic(args.out, (json.dumps(rounded(result), indent=1) + "\n").encode())
    for name, r in result["networks"].items():
        for g in r["goals"]:
            print(
                f"{name}: {g['goal']}: "
                + (
                    "not on this machine"
                    if g["met"] is None
                    else f"{g['value']:.4g}, {'met' if g['met'] else 'missed'}"
                )
            )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
