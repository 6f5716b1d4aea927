"""The log of a run: its lines as CSV, its curve, and the sample pictures of each validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmccd.detector import Detector
from mmccd.runtime import evenly_spaced
from mmccd.training_loop import without_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mmccd.training.data import TrainingData

COLUMNS = ("step", "samples", "loss", "lr", "grad_norm", "val_loss", "threshold", "imagination_r2", "seconds")
OPTIONAL = ("imagination_r2",)  # there only where a line has it
Row = dict[str, Any]  # a line of the log: some of COLUMNS


def log_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The log as CSV; numbers are written with all their digits, and what a line does not have stays empty."""

    columns = [c for c in COLUMNS if c not in OPTIONAL or any(c in row for row in rows)]

    def line(row: Mapping[str, Any]) -> str:
        return ",".join("" if row.get(c) is None else repr(row[c]) for c in columns)

    return "\n".join([",".join(columns), *map(line, rows)]) + "\n"


def curve_figure(rows: Sequence[Mapping[str, Any]], ceiling: float | None = None) -> Figure:
    """Training and validation loss over the steps, with the learning rate below, from the lines of the log.

    Where the log has it, how much the network knows of what is hidden (R2) stands between them.

    Args:
        ceiling: The R2 that could be reached, drawn as a line; None: not known.
    """
    from matplotlib.ticker import LogLocator

    from mmccd.viz import OKABE_ITO, Sheet

    imagines = any("imagination_r2" in r for r in rows)
    sheet = Sheet(7, 3.4 + 1.5 * imagines)
    top, *middle, low = sheet.subplots(2 + imagines, 1, sharex=True, height_ratios=[3, *[2] * imagines, 1])

    def column(name: str) -> list[list[float]]:
        return [[r[k] for r in rows if r.get(name) is not None] for k in ("step", name)]

    for ax in middle:
        ax.plot(*column("imagination_r2"), "o-", color=OKABE_ITO["green"], ms=4)
        if ceiling is not None:
            ax.axhline(ceiling, color="0.3", lw=1, ls=":")
        ax.set(ylabel="R² of hidden", ylim=(None, 1))

    top.plot(*column("loss"), color=OKABE_ITO["blue"], lw=1.2, label="training")
    top.plot(*column("val_loss"), "o-", color=OKABE_ITO["vermillion"], ms=4, label="validation, averaged weights")
    top.set(yscale="log", ylabel="loss")
    top.legend(fontsize=11, frameon=False)
    top.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    top.yaxis.set_major_formatter(lambda v, _: f"{v:.3g}")
    top.yaxis.set_minor_formatter(lambda v, _: "")
    low.plot(*column("lr"), color="0.3", lw=1.2)
    low.set(xlabel="step", ylabel="lr", ylim=(0, None))
    return sheet


@torch.no_grad()
def sample_rows(detector: Detector, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a sample picture shows, row by row: input, target and prediction or reconstruction, map; each (b 1 h w)."""
    x, brain = batch[detector.config.input], batch["brain"]
    generator = torch.Generator(detector.device).manual_seed(0)
    rows = {f"input {detector.config.input}": x}
    translate, reconstruct = (getattr(detector, name, None) for name in ("translate", "reconstruct"))
    if translate:
        rows[f"target {detector.config.target}"] = batch[detector.config.target]
        rows["prediction"] = torch.where(brain, translate(x, brain, generator), -1.0)
    if reconstruct:
        rows["reconstruction"] = reconstruct(x, brain, generator)
    return rows | {"map": detector.anomaly_map(x, brain, generator)}


def sample_figure(detector: Detector, val: TrainingData, title: str | None = None, n: int = 4) -> Figure:
    """`sample_rows` of `n` validation slices: always the same slices, the same noise and the same fixed scales."""
    from mmccd.viz import show_rows

    rows = sample_rows(detector, without_labels(val.batch(evenly_spaced(len(val), n)), detector.device))
    images = len(rows) - 1  # all but the map
    return show_rows(
        list(rows.values()),
        row_titles=list(rows),
        vmin=[-1.0] * images + [0.0],
        vmax=[1.0] * images + [getattr(detector, "map_top", 1.0)],
        cmap=["gray"] * images + ["inferno"],
        label=["normalised"] * images + ["score"],
        title=title,
        width=1.2 + 1.45 * n,
    )


def save_sample(figure: Figure, out: Path, step: int) -> None:
    """Save the sample picture of the validation after `step` steps into a run folder."""
    from mmccd.viz import save_png

    save_png(figure, out / "samples" / f"step-{step:07d}.png", dpi=80)
