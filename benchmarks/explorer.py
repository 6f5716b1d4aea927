"""How quick the explorer is: python benchmarks/explorer.py [--device cuda] [--quick] [--parts render strip keys memory]

render  a picture whose networks have run, beside the same panels as a matplotlib figure: milliseconds over many views
strip   a strip never seen before (`fast`), whole sweeps, and a strip of `paper`, picture included: seconds and network
        evaluations (on a CPU in one thread, as the explorer does it)
keys    from a key press to the frame in which the decoded pixels differ, in Voila and in JupyterLab, in headless
        Chromium, by the clock of the page
memory  resident memory of a kernel over 500 interactions with the panel

The first two follow --device. The other two need a kernel, and `keys` Chromium: what cannot run here is left out, and
the record says why. Let nothing else run meanwhile: the record says how busy the machine was before. Writes
data/results/bench_explorer.json.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from common import RESULTS, about, check_out, make_parser, write_result
from explorer_kernel import FLAT, measure_memory
from explorer_page import browser, measure_keys, summary

from mmccd.detector import fingerprint
from mmccd.explorer.canvas import PALETTE
from mmccd.explorer.controls import control_limits
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.view import SWEEPS, View
from mmccd.runtime import pick_device

RESULT = RESULTS / "bench_explorer.json"
PARTS, SEED = ("render", "strip", "keys", "memory"), 0
FULL: dict[str, Any] = {
    "views": 160,
    "figures": 20,
    "positions": 20,
    "kinds": ("voila", "lab"),
    "presses": 20,
    "interactions": 500,
    "block": 50,
    "every": 10,
}
QUICK = FULL | {
    "views": 8,
    "figures": 2,
    "positions": 2,
    "kinds": ("voila",),
    "presses": 3,
    "interactions": 20,
    "block": 10,
    "every": 5,
}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `run` takes, and what it returns."""
    begin = time.perf_counter()
    result = run()
    return time.perf_counter() - begin, result


# render


def some_views(explorer: Explorer, n: int, rng: random.Random) -> list[View]:
    """Views that differ in slice, step, threshold, rows and masks of the sweep; their networks have run."""
    first = explorer.first_view()
    near = explorer.places.index(first.place)
    views = []
    for k in range(n):
        at = replace(
            first,
            place=explorer.places[max(near - k % 2, 0)],
            step=rng.randint(1, first.steps),
            rows=1 + k // 2 % 2,
            threshold=first.threshold * rng.uniform(0.2, 1.4),
        )
        swept = rng.randint(0, len(explorer.masks(at)))
        views.append(replace(at, swept=swept, by_hand=not swept))
        explorer.map(views[-1]), explorer.trace(views[-1], views[-1].shown_mask)
    return views


def as_figure(explorer: Explorer, view: View) -> bytes:
    """The panels of the picture, drawn by matplotlib, as a PNG file."""
    from matplotlib.colors import ListedColormap

    from mmccd.viz import show_panels

    same = {"vmin": 0, "vmax": 255, "cmap": ListedColormap(PALETTE / 255)}
    panels = [{"image": t.pixels, "title": t.title, "label": " " if t.bar else ""} | same for t in explorer.tiles(view)]
    out = io.BytesIO()
    show_panels(panels, width=19.2).savefig(out, format="png", dpi=100)
    return out.getvalue()


def bench_render(args: argparse.Namespace, size: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a picture that needs no network."""
    torch.set_num_threads(1)
    explorer, rng = Explorer(device=args.device), random.Random(SEED)
    first = explorer.first_view()
    explorer.png(first), as_figure(explorer, first)  # fonts and tables are loaded
    ours, words, figures, weight, views = [], [], [], [], some_views(explorer, size["views"], rng)

    def text(view: View) -> tuple[object, ...]:
        return explorer.describe(view), explorer.scores(view), control_limits(explorer, view)

    for k, view in enumerate(views):
        seconds, png = timed(partial(explorer.png, view))
        ours.append(1000 * seconds), weight.append(len(png))
        words.append(1000 * timed(partial(text, view))[0])
        if k < size["figures"]:
            figures.append(1000 * timed(partial(as_figure, explorer, view))[0])
    frame, figure = summary(ours), summary(figures)
    rows = {
        f"{call}_ms": float(np.median([ms for ms, v in zip(ours, views) if v.rows == n]))
        for n, call in ((1, "one_row"), (2, "two_rows"))
    }
    return {
        "frame_ms": frame,
        **rows,
        "words_ms": summary(words),
        "matplotlib_ms": figure,
        "matplotlib / frame": figure["median"] / frame["median"],
        "png_bytes": float(np.median(weight)),
        "pixels": explorer.image(first).size,
        "networks": fingerprint(explorer.detector(first)),
        "subject": explorer.subject.call,
    }


# strip


def counted(explorer: Explorer, view: View) -> dict[str, float]:
    """Seconds until the picture of `view` is there, and the network evaluations meanwhile, both directions."""
    calls = []
    explorer.on_evaluation = calls.append
    seconds, _ = timed(lambda: explorer.png(view))
    return {"seconds": seconds, "evaluations": len(calls) + len(set(calls))}


def bench_strip(args: argparse.Namespace, size: dict[str, Any]) -> dict[str, Any]:
    """Seconds of what needs the networks."""
    places = [(start, vertical) for start in range(8, 48) for vertical in (True, False)]
    explorer = Explorer(device=args.device)
    first = explorer.first_view(start=0)
    explorer.png(first), explorer.png(replace(first, start=1))  # networks and kernels are warm
    new = [
        counted(explorer, replace(first, start=start, vertical=vertical))
        for start, vertical in random.Random(SEED).sample(places, size["positions"])
    ]
    one: dict[str, Any] = {
        "strip": {
            "seconds": summary([n["seconds"] for n in new]),
            "evaluations": sorted({n["evaluations"] for n in new}),
        }
    }
    if not args.quick:
        for name in ("fast", "one by one"):  # another noise: nothing of it is kept
            view = replace(first, sampler=name, steps=SWEEPS[name].steps, step=1, by_hand=False, seed=1)
            n = len(explorer.masks(view))
            one[f"sweep {name}"] = {"masks": n} | counted(explorer, replace(view, swept=n))
        one["strip paper"] = counted(explorer, replace(first, sampler="paper", steps=100, step=100))
    return {args.device: one}


def bench_keys(args: argparse.Namespace, size: dict[str, Any]) -> dict[str, Any]:
    """From a key press to the picture."""
    return measure_keys(size)


def bench_memory(args: argparse.Namespace, size: dict[str, Any]) -> dict[str, Any]:
    """Memory of a kernel."""
    return measure_memory(size, SEED)


BENCHES = {"render": bench_render, "strip": bench_strip, "keys": bench_keys, "memory": bench_memory}


# all parts


def judged(quick: bool, name: str, most: float, measured: float | None) -> dict[str, Any]:
    """A goal and whether it was met: None where it was not measured, or by --quick only."""
    met = None if measured is None or quick else measured <= most
    return {"name": name, "goal": most, "measured": measured, "met": met}


def dig(record: Any, *keys: str) -> Any:
    """What lies under these keys, or None."""
    for k in keys:
        record = record.get(k) if isinstance(record, dict) else None
    return record


def goals(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What was wanted, beside what was measured."""
    goal = partial(judged, record.get("quick", False))

    def strip(where: str) -> float | None:
        return dig(record, "strip", where, "strip", "seconds", "median")

    def key(kind: str, name: str) -> float | None:
        return dig(record, "keys", kind, name, "median")

    named = {"voila": ("Voila", 100), "lab": ("JupyterLab", 150)}
    return [
        goal("a frame, everything computed: ms", 15, dig(record, "render", "frame_ms", "median")),
        goal("a new strip with fast on a CPU: s", 1.5, strip("cpu")),
        goal("a new strip with fast on a GPU: s", 0.1, strip("cuda")),
        *(
            goal(f"key press to changed picture in {call}, {name}: ms", most, key(kind, name))
            for kind, (call, most) in named.items()
            for name in ("step", "threshold")
        ),
        goal("memory of a kernel, second half: MB per 100 interactions", FLAT, dig(record, "memory", "mb_per_100")),
    ]


def machine() -> dict[str, Any]:
    """What ran here, and how busy it was."""
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "default_threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what takes part; None for what is not installed."""

    def find(name: str) -> str | None:
        try:
            return version(name)
        except ImportError:
            return None

    names = [
        "mmccd",
        "torch",
        "numpy",
        "pillow",
        "matplotlib",
        "ipywidgets",
        "ipykernel",
        "jupyterlab",
        "voila",
        "playwright",
    ]
    return {n: find(n) for n in names} | {"python": platform.python_version()}


def impossible(part: str, args: argparse.Namespace) -> str:
    """Why a part cannot run here, or ""."""
    if part not in args.parts:
        return "not asked for"
    if part in ("keys", "memory") and args.device != "cpu":
        return f"measured with --device cpu, not on {args.device}"
    if part == "keys":
        return browser.missing("lab", "voila")
    return browser.missing("lab") if part == "memory" and "ipywidgets" in browser.missing("lab") else ""


def table(record: dict[str, Any]) -> str:
    """The numbers for a person."""
    lines = [*render_lines(record["render"]), *strip_lines(record["strip"] or {})]
    for kind in ("voila", "lab"):
        for name, k in (dig(record, "keys", kind) or {}).items():
            stages = ", ".join(f"{s} {v:.0f}" for s, v in (k["stages"] or {}).items())
            lines.append(f"{kind}, key on {name}: {k['median']:.0f} ms, 90th percentile {k['p90']:.0f} ({stages})")
    if m := record["memory"]:
        last = m["interactions"][-1]
        looks = zip(m["interactions"], m["resident_mb"])
        marks = ", ".join(f"{n}: {mb:.0f}" for n, mb in looks if n % 50 == 0 or n == last)
        lines.append(f"memory in MB after interactions {marks}; {m['mb_per_100']:+.2f} MB per 100 in the second half")
    lines += [f"{part} left out: {why}" for part, why in record["left_out"].items()]
    return "\n".join([*lines, *map(goal_line, record["goals"])])


def render_lines(r: dict[str, Any] | None) -> list[str]:
    """A line on frames, if they were measured."""
    if not r:
        return []
    f = r["frame_ms"]
    return [
        f"frame {f['median']:.1f} ms ({f['p10']:.1f} to {f['p90']:.1f}; one row {r['one_row_ms']:.1f}, "
        f"two rows {r['two_rows_ms']:.1f}), its words {r['words_ms']['median']:.1f} ms; "
        f"matplotlib {r['matplotlib_ms']['median']:.0f} ms, {r['matplotlib / frame']:.0f} times as long"
    ]


def strip_lines(found: dict[str, Any]) -> list[str]:
    """A line for each computation with networks."""
    lines = []
    for where, ways in found.items():
        for name, w in ways.items():
            seconds, calls = w["seconds"], w["evaluations"]
            if name == "strip":
                seconds, calls = seconds["median"], "/".join(map(str, calls))
            masks = f", {w['masks']} masks" if "masks" in w else ""
            lines.append(f"{name}, {where}: {seconds:.3f} s, {calls} evaluations{masks}")
    return lines


def goal_line(g: dict[str, Any]) -> str:
    """A goal in words."""
    word = {None: "too few runs to say", True: "met", False: "missed"}[g["met"]]
    measured = "not measured" if g["measured"] is None else f"{g['measured']:.4g}, {word}"
    return f"{g['name']}: at most {g['goal']:g}; {measured}"


def options(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = make_parser(__doc__ or "", "bench_explorer")
    parser.add_argument("--device", default="cpu", help="for the first two parts")
    parser.add_argument("--quick", action="store_true", help="few runs of everything: tries the bench, says little")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="not all of it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Measure, write and print."""
    args = options(argv)
    args.device = pick_device(args.device)
    check_out(args.out)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"{args.device} ({platform.machine()})"
    record: dict[str, Any] = about("explorer", argv) | {
        "quick": args.quick,
        "seed": SEED,
        "data": "phantom 1, glioma, as the explorer makes it where none is given",
        "device": where,
        "machine": machine(),
        "versions": versions(),
        "left_out": {p: why for p in PARTS if (why := impossible(p, args))},
    }
    run_parts(record, args)
    record["goals"] = goals(record)
    write_result(args.out, record)
    print(table(record))


def run_parts(record: dict[str, Any], args: argparse.Namespace) -> None:
    """Measure all parts that are not left out, each with the threads there were before."""
    before, size = torch.get_num_threads(), QUICK if args.quick else FULL
    bench: Callable[[argparse.Namespace, dict[str, Any]], dict[str, Any]]
    try:
        for name, bench in BENCHES.items():
            record[name] = None if name in record["left_out"] else bench(args, size)
            torch.set_num_threads(before)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
