""""""

from pathlib import Path

import numpy as np
import torch

from mmccd.benchmark.dataset import load_evaluation_set
from mmccd.benchmark.measure import RECALLS
from mmccd.benchmark.tables import cell, first_kind, of_pair
from mmccd.registry import METHODS
from mmccd.runtime import counted
from mmccd.scoring import SIZES, by_size


def colour_of(
    method: str,  # in `ROWS`
) -> str:
    "The same in every figure; told apart with any eyes, and greys for what has learned nothing."
    from mmccd.viz import OKABE_ITO

    colour = METHODS[method].colour
    return OKABE_ITO.get(colour, colour)


def entries_of_pair(
    result,  # what benchmark.json holds
    pair=None,  # such as "flair-t2"; None: the first
) -> dict:  # by key
    "The lines that figures draw: shipped weights only where there are no others."
    lines = of_pair(result, pair or result["pairs"][0])
    return {k: e for k, e in lines.items() if not e["shipped"] or k.removesuffix(" shipped") not in lines}


def recall_figure(
    result,  # what benchmark.json holds
):  # matplotlib figure
    "Precision over recall, mean over subjects."
    from mmccd.viz import Sheet

    sheet, kind = Sheet(7, 4), first_kind(result)
    ax = sheet.subplots()
    for e in entries_of_pair(result).values():
        ax.plot(
            RECALLS,
            e["kinds"][kind]["curve"],
            color=colour_of(e["method"]),
            lw=1.6,
            label=f"{METHODS[e['method']].title} (AP {cell(e['kinds'][kind]['summary']['ap'])})",
        )
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    ax.legend(fontsize=11, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return sheet


def size_figure(
    result,  # what benchmark.json holds
):  # matplotlib figure
    "Dice at the calibrated threshold by size of the lesion, with intervals."
    from mmccd.viz import Sheet

    kind, lines = first_kind(result), entries_of_pair(result)
    sizes = [r[3] for r in result["subjects"]["rows"] if r[1] == kind]
    sheet = Sheet(7, 4)
    ax = sheet.subplots()
    for i, e in enumerate(lines.values()):
        k, name = e["kinds"][kind], METHODS[e["method"]].title
        got = by_size([dict(zip(k["columns"], r)) for r in k["rows"]], "dice", sizes, SIZES["slice"])
        for at, s in enumerate(got.values()):
            x = at + 0.8 * (i + 0.5) / len(lines) - 0.4
            if s["low"] is not None:
                ax.plot([x, x], [s["low"], s["high"]], color=colour_of(e["method"]), lw=1.4)
            if s["n"]:
                ax.plot(x, s["mean"], "o", color=colour_of(e["method"]), ms=5, label=name)
                name = None
    ax.set_xticks(
        range(len(got)), [f"{bin.replace('cm2', 'cm²')}\n({counted(s['n'], 'subject')})" for bin, s in got.items()]
    )
    ax.set(ylabel="Dice (calibrated)", ylim=(-0.02, 1.02), xlim=(-0.5, len(got) - 0.5))
    ax.legend(fontsize=11, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return sheet


def cost_figure(
    result,  # what benchmark.json holds
):  # matplotlib figure
    "Average precision against the evaluations of a network that a slice takes."
    from mmccd.viz import Sheet

    kind, lines = first_kind(result), [e for e in entries_of_pair(result).values() if e["evaluations"]]
    floor = {
        e["method"]: e["kinds"][kind]["summary"]["ap"]["mean"]
        for e in entries_of_pair(result).values()
        if not e["evaluations"]
    }
    sheet = Sheet(7, 3.6)
    ax = sheet.subplots()
    for m, y in floor.items():
        ax.axhline(y, color=colour_of(m), lw=1, ls="--", label=f"{METHODS[m].title} (no network)")
    for i, e in enumerate(lines):
        s, same = e["kinds"][kind]["summary"]["ap"], sum(f["evaluations"] == e["evaluations"] for f in lines[:i])
        x = e["evaluations"] * 1.15**same  # side by side, not on top of each other
        if s["low"] is not None:
            ax.plot([x, x], [s["low"], s["high"]], color=colour_of(e["method"]), lw=1.4)
        ax.plot(x, s["mean"], "o", color=colour_of(e["method"]), ms=6, label=METHODS[e["method"]].title)
    ax.set(xscale="log", xlabel="evaluations of a network for a slice", ylabel="AP", ylim=(0, 1))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    ax.legend(fontsize=11, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return sheet


def maps_figure(
    plan,  # the `Plan` behind the result
    result,  # what benchmark.json holds
):  # matplotlib figure
    "What each method makes of the same slices; truth outlined; each row's scale ends at twice its own threshold."
    from mmccd.viz import crop_to, show_rows

    found = {s.id: s for s in load_evaluation_set(plan).subjects}
    people = [found[id] for id in result["subjects"]["pictured"]]
    lines = {k: e for k, e in entries_of_pair(result).items() if e["method"] != "everything"}
    box = crop_to(torch.cat([s.batch["brain"] for s in people]))
    truth = [s.batch["lesion"][0, 0][box].numpy() for s in people]
    x = lines[next(iter(lines))]["input"]
    rows = [[s.batch[x][0, 0][box].numpy() for s in people]]
    for k in lines:
        with np.load(Path(plan.out) / "scores" / f"{k.replace(' ', '-')}.npz") as kept:
            rows.append([kept[s.id][0, 0][box].astype(np.float32) for s in people])
    tops = [float(f"{2 * e['threshold']:.2g}") if e["threshold"] > 0 else 1.0 for e in lines.values()]
    return show_rows(
        rows,
        [f"{s.lesion_cm2:.1f} cm²" for s in people],
        [x.upper(), *(METHODS[e["method"]].title for e in lines.values())],
        vmin=[-1.0] + [0.0] * len(tops),
        vmax=[1.0] + tops,
        cmap=["gray"] + ["inferno"] * len(tops),
        label=["normalised"] + ["score"] * len(tops),
        truths=[truth] * len(rows),
        sides=True,
        width=2 + 1.9 * len(people),
    )
