"""The four figures of a result: maps, precision over recall, Dice by size of the lesion, AP over cost."""

from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmccd.benchmark.dataset import load_evaluation_set
from mmccd.benchmark.measure import RECALLS, score_file
from mmccd.benchmark.plan import Plan
from mmccd.benchmark.tables import Result, cell, entries_of, first_kind
from mmccd.registry import METHODS
from mmccd.runtime import counted
from mmccd.summary import SIZES, by_size
from mmccd.viz import OKABE_ITO, Sheet, crop_to, show_rows


def method_colour(method: str) -> str:
    """The colour of a method in every figure: distinct with any eyes, grey for what has learned nothing."""
    colour = METHODS[method].colour
    return OKABE_ITO.get(colour, colour)


def drawn_entries(result: Result, pair: str | None = None) -> dict[str, Any]:
    """The rows that figures draw, by key: shipped weights only where there are no others.

    Args:
        result: What benchmark.json holds.
        pair: Such as `flair-t2`; None: the first.
    """
    found = entries_of(result, pair or result["pairs"][0])
    return {k: e for k, e in found.items() if not e["shipped"] or k.removesuffix(" shipped") not in found}


def add_method_legend(ax: Axes) -> None:
    """A legend to the right of the axes."""
    ax.legend(fontsize=11, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_interval(ax: Axes, x: float, summary: Any, colour: str) -> None:
    """A vertical line at `x` from the low to the high end of an interval, if there is one."""
    if summary["low"] is not None:
        ax.plot([x, x], [summary["low"], summary["high"]], color=colour, lw=1.4)


def recall_figure(result: Result) -> Figure:
    """Precision over recall, each the mean over the subjects of the first kind."""
    sheet, kind = Sheet(7, 4), first_kind(result)
    ax = sheet.subplots()
    for e in drawn_entries(result).values():
        scores = e["kinds"][kind]
        label = f"{METHODS[e['method']].title} (AP {cell(scores['summary']['ap'])})"
        ax.plot(RECALLS, scores["curve"], color=method_colour(e["method"]), lw=1.6, label=label)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    add_method_legend(ax)
    return sheet


def size_figure(result: Result) -> Figure:
    """Dice at the calibrated threshold by size of the lesion, with intervals."""
    kind, lines = first_kind(result), drawn_entries(result)
    sizes = [row[3] for row in result["subjects"]["rows"] if row[1] == kind]
    sheet = Sheet(7, 4)
    ax, bins = sheet.subplots(), {}
    for i, e in enumerate(lines.values()):
        scores, colour, label = e["kinds"][kind], method_colour(e["method"]), METHODS[e["method"]].title
        bins = by_size([dict(zip(scores["columns"], r)) for r in scores["rows"]], "dice", sizes, SIZES["slice"])
        for k, s in enumerate(bins.values()):
            x = k + 0.8 * (i + 0.5) / len(lines) - 0.4
            draw_interval(ax, x, s, colour)
            if s["n"]:
                ax.plot(x, s["mean"], "o", color=colour, ms=5, label=label)
                label = None  # one line of the legend is enough
    names = [f"{name.replace('cm2', 'cm²')}\n({counted(s['n'], 'subject')})" for name, s in bins.items()]
    ax.set_xticks(range(len(bins)), names)
    ax.set(ylabel="Dice (calibrated)", ylim=(-0.02, 1.02), xlim=(-0.5, len(bins) - 0.5))
    add_method_legend(ax)
    return sheet


def cost_figure(result: Result) -> Figure:
    """Average precision over the evaluations of a network that a slice takes."""
    kind, lines = first_kind(result), drawn_entries(result).values()
    sheet, drawn = Sheet(7, 3.6), []
    ax = sheet.subplots()
    for e in lines:
        if not e["evaluations"]:
            label = f"{METHODS[e['method']].title} (no network)"
            y = e["kinds"][kind]["summary"]["ap"]["mean"]
            ax.axhline(y, color=method_colour(e["method"]), lw=1, ls="--", label=label)
    for e in lines:
        if e["evaluations"]:
            s, colour = e["kinds"][kind]["summary"]["ap"], method_colour(e["method"])
            x = e["evaluations"] * 1.15 ** drawn.count(e["evaluations"])  # side by side, not on top of each other
            draw_interval(ax, x, s, colour)
            ax.plot(x, s["mean"], "o", color=colour, ms=6, label=METHODS[e["method"]].title)
            drawn.append(e["evaluations"])
    ax.set(xscale="log", xlabel="evaluations of a network for a slice", ylabel="AP", ylim=(0, 1))
    ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    add_method_legend(ax)
    return sheet


def maps_figure(plan: Plan, result: Result) -> Figure:
    """Maps of each method on the same slices, lesions outlined; a row's scale ends at twice its own threshold.

    Args:
        plan: The one behind the result; its folder holds the maps.
        result: What benchmark.json holds.
    """
    found = {s.id: s for s in load_evaluation_set(plan).subjects}
    subjects = [found[id] for id in result["subjects"]["pictured"]]
    lines = {k: e for k, e in drawn_entries(result).items() if not METHODS[e["method"]].blind}
    box = crop_to(torch.cat([s.batch["brain"] for s in subjects]))
    truth = [s.batch["lesion"][0, 0][box].numpy() for s in subjects]
    input = next(iter(lines.values()))["input"]
    rows = [[s.batch[input][0, 0][box].numpy() for s in subjects]]
    for k in lines:
        with np.load(score_file(plan, k).with_suffix(".npz")) as maps:
            rows.append([maps[s.id][0, 0][box].astype(np.float32) for s in subjects])
    tops = [float(f"{2 * e['threshold']:.2g}") if e["threshold"] > 0 else 1.0 for e in lines.values()]
    return show_rows(
        rows,
        [f"{s.lesion_cm2:.1f} cm²" for s in subjects],
        [input.upper(), *(METHODS[e["method"]].title for e in lines.values())],
        vmin=[-1.0, *[0.0] * len(tops)],
        vmax=[1.0, *tops],
        cmap=["gray", *["inferno"] * len(tops)],
        label=["normalised", *["score"] * len(tops)],
        truths=[truth] * len(rows),
        sides=True,
        width=2 + 1.9 * len(subjects),
    )
