"""How quick the explorer is: python tools/bench_explorer.py [--device cuda] [--quick] [--parts render strip keys memory]

render  a picture whose networks have run, beside the same panels as a matplotlib figure: milliseconds over many views
strip   a strip never seen before (`fast`), whole sweeps, and a strip of `paper`, picture included: seconds and network evaluations (on a CPU in one thread, as the explorer does it)
keys    from a key press to the frame in which the decoded pixels differ, in Voila and in JupyterLab, in headless Chromium by the clock of the page
memory  resident memory of a kernel over 500 interactions with the panel

The first two follow --device. The other two need a kernel, and `keys` Chromium: what cannot run here is left out, and the record says why.
Let nothing else run meanwhile: the record says how busy the machine was before. Writes data/results/bench_explorer.json."""

import argparse
import asyncio
import io
import json
import os
import platform
import random
import sys
import time
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import browser
import numpy as np
import torch

from mmccd.detector import fingerprint
from mmccd.explorer.canvas import PALETTE
from mmccd.explorer.controls import limits
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.view import SWEEPS
from mmccd.files import round_floats as rounded
from mmccd.files import write_atomic
from mmccd.phantom import KINDS
from mmccd.runtime import pick_device

RESULT = Path(__file__).parent.parent / "data" / "results" / "bench_explorer.json"
PARTS, SEED = ("render", "strip", "keys", "memory"), 0
FULL = {
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
FLAT = 2.0  # MB for 100 interactions: 20 MB in an hour of teaching with a thousand of them


def summary(values):
    "Median, 10th and 90th percentile, and the values themselves."
    low, middle, high = np.percentile(values, (10, 50, 90))
    return {"median": float(middle), "p10": float(low), "p90": float(high), "runs": [float(v) for v in values]}


def timed(run):
    "(seconds, what it returns)"
    begin = time.perf_counter()
    got = run()
    return time.perf_counter() - begin, got


# render


def some_views(explorer, n, rng):
    "Views that differ in slice, step, threshold, rows and masks of the sweep; what the networks say for them is computed here."
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
        explorer.map(views[-1]), explorer.trace(views[-1], views[-1].shown)
    return views


def as_figure(explorer, view):
    "The panels of the picture, drawn by matplotlib: PNG bytes."
    from matplotlib.colors import ListedColormap

    from mmccd.viz import show_panels

    colours, out = ListedColormap(PALETTE / 255), io.BytesIO()
    panels = [
        dict(image=t.pixels, vmin=0, vmax=255, cmap=colours, title=t.title, label=" " if t.bar else "")
        for t in explorer.tiles(view)
    ]
    show_panels(panels, width=19.2).savefig(out, format="png", dpi=100)
    return out.getvalue()


def bench_render(args, size):
    "Milliseconds of a picture that needs no network."
    torch.set_num_threads(1)
    explorer, rng = Explorer(device=args.device), random.Random(SEED)
    first = explorer.first_view()
    explorer.png(first), as_figure(explorer, first)  # fonts and tables are loaded
    ours, words, figures, weight, views = [], [], [], [], some_views(explorer, size["views"], rng)
    for k, view in enumerate(views):
        seconds, png = timed(lambda: explorer.png(view))
        ours.append(1000 * seconds), weight.append(len(png))
        words.append(1000 * timed(lambda: (explorer.describe(view), explorer.scores(view), limits(explorer, view)))[0])
        if k < size["figures"]:
            figures.append(1000 * timed(lambda: as_figure(explorer, view))[0])
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


def counted(explorer, view):
    "Seconds until the picture of `view` is there, and the network evaluations meanwhile: each step there, and one back for each mask."
    calls = []
    explorer.before = calls.append
    seconds, _ = timed(lambda: explorer.png(view))
    return {"seconds": seconds, "evaluations": len(calls) + len(set(calls))}


def bench_strip(args, size):
    "Seconds of what needs the networks."
    positions = random.Random(SEED).sample(
        [(start, vertical) for start in range(8, 48) for vertical in (True, False)], size["positions"]
    )
    explorer = Explorer(device=args.device)
    first = explorer.first_view(start=0)
    explorer.png(first), explorer.png(replace(first, start=1))  # networks and kernels are warm
    new = [counted(explorer, replace(first, start=start, vertical=vertical)) for start, vertical in positions]
    one = {
        "strip": {
            "seconds": summary([n["seconds"] for n in new]),
            "evaluations": sorted({n["evaluations"] for n in new}),
        }
    }
    if not args.quick:
        for name in ("fast", "one by one"):
            view = replace(
                first, sampler=name, steps=SWEEPS[name].steps, step=1, by_hand=False, seed=1
            )  # another noise: nothing of it is kept
            one[f"sweep {name}"] = {"masks": len(explorer.masks(view))} | counted(
                explorer, replace(view, swept=len(explorer.masks(view)))
            )
        one["strip paper"] = counted(explorer, replace(first, sampler="paper", steps=100, step=100))
    return {args.device: one}


# keys

CELL = "from mmccd.explore import explore\npanel = explore(device='cpu'{})"
PICTURE = ".x-picture"
KEYS = {
    "step": "the step that is shown (all is computed)",
    "threshold": "threshold (all is computed)",
    "start": "strip to a position never seen (the networks run)",
}
HOW = (
    "ArrowRight on the focused slider by Playwright; the clock is the page's: from the time stamp of the keydown event to the first animation frame after a load event of the picture whose "
    "decoded pixels differ from those before; the next press follows when the page has heard nothing for 0.3 s; one press of each slider before is not counted"
)
# before the page's own scripts: what goes over its web sockets, and when
WIRE = """(() => { const own = window.WebSocket, log = window.wire = [], note = (what, d) => log.push([what, performance.now(), d.byteLength ?? d.size ?? d.length]);
  window.WebSocket = class extends own { constructor(...a) { super(...a); this.addEventListener('message', e => note('got', e.data)) }
    send(d) { note('sent', d); super.send(d) } } })()"""
# a load event alone proves nothing, as every update makes one: decode, wait for the frame, note the time, then look at the pixels
WATCH = f"""async selector => {{ const look = {browser.PIXELS}, im = document.querySelector(selector), w = window.seen = {{old: await look(selector)}};
  window.addEventListener('keydown', e => {{ w.key = e.timeStamp }}, {{capture: true, once: true}});
  im.addEventListener('load', async function loaded() {{ const load = performance.now(); try {{ await im.decode() }} catch (e) {{ return }}
    const frame = await new Promise(done => requestAnimationFrame(() => done(performance.now())));
    if (w.key === undefined || w.frame || await look(selector) === w.old) return;
    w.load = load; w.frame = frame; im.removeEventListener('load', loaded) }}) }}"""
QUIET = "() => !window.wire.length || performance.now() - window.wire.at(-1)[1] > 300"


def press(p, knob, key="ArrowRight"):
    "Milliseconds from the key to the changed picture, and of the stages between."
    p.evaluate(WATCH, PICTURE)
    p.locator(knob).press(key)
    p.wait_for_function("window.seen.frame", polling=50)
    p.wait_for_function(QUIET, polling=50)
    seen, wire = p.evaluate("[window.seen, window.wire]")

    def after(what, since, least):
        return next((t for w, t, n in wire if w == what and t >= since and n > least), None)

    sent = after("sent", seen["key"], 0)
    got = sent and after("got", sent, 5000)  # the first message large enough to hold a picture
    marks = [seen["key"], sent, got, seen["load"], seen["frame"]]
    stages = (
        None
        if None in marks
        else dict(zip(("page sends", "server and kernel", "page loads", "frame"), np.diff(marks).tolist()))
    )
    return {"ms": seen["frame"] - seen["key"], "stages": stages}


def presses(p, name, n):
    "So many of them on one slider, each to the right; at its end it goes back to the left first, which is not counted."
    knob, runs = f".x-{name} .noUi-handle", []
    for _ in range(n + 1):
        at = p.locator(knob)
        if at.get_attribute("aria-valuenow") == at.get_attribute("aria-valuemax"):
            press(p, knob, "Home")
        runs.append(press(p, knob))
    stages = [r["stages"] for r in runs[1:] if r["stages"]]
    return summary([r["ms"] for r in runs[1:]]) | {
        "stages": {k: float(np.median([s[k] for s in stages])) for k in stages[0]} if stages else None
    }


def bench_keys(args, size):
    "Milliseconds from a key to the picture, as a person at a browser has them."
    import nbformat.v4 as nb

    found = {"how": HOW}
    with TemporaryDirectory() as folder:
        book = Path(folder) / "explorer.ipynb"
        book.write_text(
            json.dumps(
                nb.new_notebook(
                    cells=[nb.new_code_cell(CELL.format(", start=8") + "\npanel")],
                    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
                )
            )
        )
        for kind in size["kinds"]:
            with browser.server(kind, book) as url, browser.page(1280, 800) as p:
                p.add_init_script(WIRE)
                browser.open_notebook(p, kind, url)
                p.wait_for_function(QUIET)
                found["chromium"] = p.context.browser.version
                found[kind] = {name: presses(p, name, size["presses"]) | {"what": what} for name, what in KEYS.items()}
    return found


# memory

MIX = {
    "start": 14,
    "step": 12,
    "threshold": 8,
    "swept": 6,
    "place": 4,
    "input": 2,
    "target": 2,
    "vertical": 1,
}  # of 49 in a row; the 50th is another subject


def others(knob):
    "What a control can say beside what it says now."
    if hasattr(knob, "options"):
        return [v for v in (o[1] if isinstance(o, tuple) else o for o in knob.options) if v != knob.value]
    return [
        v
        for v in np.arange(knob.min, knob.max + knob.step / 2, knob.step).tolist()
        if abs(v - knob.value) > knob.step / 2
    ]


def act(panel, what, rng):
    "One interaction through the panel's controls."
    k = panel.knobs
    if what == "subject":
        what = rng.choice(("kind", "subject_seed"))
    if what == "subject_seed":
        k[what].value = rng.randrange(10**6)
    elif what == "kind":
        k[what].value = rng.choice([kind for kind in KINDS if kind != k[what].value])
    else:
        k[what].value = rng.choice(others(k[what]))


async def interact(panel, whats, rng):
    "Interactions, each until its picture is on the screen; called in the kernel."
    for what in whats:
        act(panel, what, rng)
        await asyncio.to_thread(panel.worker.wait)
        await asyncio.sleep(0)
        if 'role="alert"' in panel.knobs["message"].value:
            raise RuntimeError(f"{what}: {panel.knobs['message'].value}")


def plan(n, block, rng):
    "What is done, in order: every block the same things, shuffled, and between blocks another subject."
    deck = [w for w, count in MIX.items() for _ in range(count)]
    return [what for k in range(0, n, block) for what in ("subject" if k else "start", *rng.sample(deck, block - 1))][
        :n
    ]


class Kernel:
    "A kernel of its own, as a notebook has one."

    def __enter__(self):
        import psutil
        from jupyter_client import KernelManager

        self.manager = KernelManager(kernel_name="python3", transport="ipc")
        self.manager.start_kernel()
        self.client = self.manager.client()
        try:
            self.client.start_channels()
            self.client.wait_for_ready(120)
            self.process = psutil.Process(self.manager.provisioner.pid)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def run(self, code, seconds=600):
        "What it prints."
        said = []

        def hear(m):
            return (
                said.append(m["content"]["text"])
                if m["msg_type"] == "stream" and m["content"]["name"] == "stdout"
                else None
            )

        reply = self.client.execute_interactive(
            code, silent=False, store_history=False, output_hook=hear, timeout=seconds
        )["content"]
        if reply["status"] != "ok":
            raise ValueError(f"the kernel says {reply.get('ename')}: {reply.get('evalue')}")
        return "".join(said)

    @property
    def resident(self):
        return round(self.process.memory_info().rss / 2**20, 1)  # MB; what is written is what the slope is of


def slope(at, mb):
    "MB for 100 interactions over the second half: the median of the slopes between any two looks, as one subject may need some dozen MB more than the next."
    from scipy.stats import theilslopes

    half = [k for k, n in enumerate(at) if n >= at[-1] / 2]
    return float(100 * theilslopes([mb[k] for k in half], [at[k] for k in half])[0])


def bench_memory(args, size):
    "Megabytes of a kernel, looked at every few interactions."
    at, resident, kept = [0], [], []
    whats, every = plan(size["interactions"], size["block"], random.Random(SEED)), size["every"]
    with Kernel() as kernel:
        kernel.run(CELL.format(""))
        kernel.run(
            f"import sys, random\nsys.path.append({str(Path(__file__).parent)!r})\nfrom bench_explorer import interact\nrng = random.Random({SEED})"
        )

        def look(code):
            return (
                kept.append(float(kernel.run(f"{code}\nprint(panel.explorer.kept.size / 2**20)"))),
                resident.append(kernel.resident),
            )

        look("")
        for k in range(0, len(whats), every):
            look(f"await interact(panel, {whats[k : k + every]!r}, rng)")
            at.append(min(k + every, len(whats)))
    return {
        "interactions": at,
        "resident_mb": resident,
        "kept_mb": kept,
        "mb_per_100": slope(at, resident),
        "mix": {w: whats.count(w) for w in dict.fromkeys(whats)},
        "flat": f"at most {FLAT:g} MB for 100 interactions, the median of the slopes between any two looks in the second half; kept_mb is what the explorer itself keeps of what was computed, of which megabytes=128 is the limit",
    }


# all parts


def judged(quick, name, most, measured):
    "A goal of the plan; `met` is None where it was not measured, or by --quick only."
    return {
        "name": name,
        "goal": most,
        "measured": measured,
        "met": None if measured is None or quick else measured <= most,
    }


def dig(record, *keys):
    "What lies under these keys, or None."
    for k in keys:
        record = record.get(k) if isinstance(record, dict) else None
    return record


def goals(record):
    "What was asked for, beside what was measured."
    goal = partial(judged, record.get("quick", False))

    def strip(where):
        return dig(record, "strip", where, "strip", "seconds", "median")

    def key(kind, name):
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


def device_name(device):
    "Where the networks of the first two parts run."
    return torch.cuda.get_device_name() if device == "cuda" else f"{device} ({platform.machine()})"


def machine():
    "What ran here, and how busy it was."
    return {
        "cpu": platform.machine(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "default_threads": torch.get_num_threads(),
    }


def versions():
    "Of what takes part."
    names = (
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
    )

    def said(name):
        try:
            return version(name)
        except ImportError:
            return None

    return {n: said(n) for n in names} | {"python": platform.python_version()}


def impossible(part, args):
    "Why a part cannot run here, or nothing."
    if part not in args.parts:
        return "not asked for"
    if part in ("keys", "memory") and args.device != "cpu":
        return f"measured with --device cpu, not on {args.device}"
    if part == "keys":
        return browser.missing("lab", "voila")
    return browser.missing("lab") if part == "memory" and "ipywidgets" in browser.missing("lab") else ""


def table(record):
    "The numbers for a person."
    lines = []
    if r := record["render"]:
        lines += [
            f"frame {r['frame_ms']['median']:.1f} ms ({r['frame_ms']['p10']:.1f} to {r['frame_ms']['p90']:.1f}; one row {r['one_row_ms']:.1f}, two rows {r['two_rows_ms']:.1f}), its words {r['words_ms']['median']:.1f} ms; "
            f"matplotlib {r['matplotlib_ms']['median']:.0f} ms, {r['matplotlib / frame']:.0f} times as long"
        ]
    for where, ways in (record["strip"] or {}).items():
        for name, w in ways.items():
            s = w["seconds"]["median"] if name == "strip" else w["seconds"]
            lines.append(
                f"{name}, {where}: {s:.3f} s, {w['evaluations'] if name != 'strip' else '/'.join(map(str, w['evaluations']))} evaluations"
                + (f", {w['masks']} masks" if "masks" in w else "")
            )
    for kind in ("voila", "lab"):
        for name, k in (dig(record, "keys", kind) or {}).items():
            stages = ", ".join(f"{s} {v:.0f}" for s, v in (k["stages"] or {}).items())
            lines.append(f"{kind}, key on {name}: {k['median']:.0f} ms, 90th percentile {k['p90']:.0f} ({stages})")
    if m := record["memory"]:
        marks = [
            f"{n}: {mb:.0f}"
            for n, mb in zip(m["interactions"], m["resident_mb"])
            if n % 50 == 0 or n == m["interactions"][-1]
        ]
        lines.append(
            f"memory in MB after interactions {', '.join(marks)}; {m['mb_per_100']:+.2f} MB per 100 in the second half"
        )
    lines += [f"{part} left out: {why}" for part, why in record["left_out"].items()]
    word = {None: "too few runs to say", True: "met", False: "missed"}
    return "\n".join(
        [
            *lines,
            *(
                f"{g['name']}: at most {g['goal']:g}; "
                + ("not measured" if g["measured"] is None else f"{g['measured']:.4g}, {word[g['met']]}")
                for g in record["goals"]
            ),
        ]
    )


def options(argv):
    "What was asked for."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="for the first two parts")
    parser.add_argument("--quick", action="store_true", help="few runs of everything: tries the bench, says little")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="not all of it")
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args(argv)


def written(args):
    "The command without where its result goes."
    return " ".join(
        [
            "python tools/bench_explorer.py",
            *(["--device", args.device] if args.device != "cpu" else []),
            *["--quick"] * args.quick,
            *(["--parts", *args.parts] if tuple(args.parts) != PARTS else []),
        ]
    )


def main(argv=None):
    args = options(argv)
    args.device = pick_device(args.device)
    if not args.out.parent.is_dir():
        raise ValueError(f"cannot write {args.out}: its folder does not exist")
    size, parts = (
        QUICK if args.quick else FULL,
        {"render": bench_render, "strip": bench_strip, "keys": bench_keys, "memory": bench_memory},
    )
    record = {
        "command": written(args),
        "date": date.today().isoformat(),
        "quick": args.quick,
        "seed": SEED,
        "data": "phantom 1, glioma, as the explorer makes it where none is given",
        "device": device_name(args.device),
        "machine": machine(),
        "versions": versions(),
        "left_out": {p: why for p in PARTS if (why := impossible(p, args))},
    }
    before = torch.get_num_threads()
    try:
        for name, part in parts.items():
            record[name] = None if name in record["left_out"] else part(args, size)
            torch.set_num_threads(before)
    finally:
        torch.set_num_threads(before)
    record["goals"] = goals(record)
    write_atomic(args.out, (json.dumps(rounded(record), indent=1) + "\n").encode())
    print(table(record))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
