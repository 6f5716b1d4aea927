""""""

from pathlib import Path

import torch

from mmccd.detector import Detector
from mmccd.runtime import evenly_spaced
from mmccd.training_loop import without_labels


def sample_figure(
    detector: Detector,  # the averaged one
    val,  # validation slices
    title=None,  # a line above
    n: int = 4,  # how many slices
):  # matplotlib figure
    "Input, target, prediction and map of the same few slices, on the same fixed scales every time."
    from mmccd.viz import show_rows

    batch, c = without_labels(val.batch(evenly_spaced(len(val), n)), detector.device), detector.config
    generator = torch.Generator(detector.device).manual_seed(0)
    rows = {f"input {c.input}": batch[c.input]}
    if hasattr(detector, "translate"):
        with torch.no_grad():
            rows |= {
                f"target {c.target}": batch[c.target],
                "prediction": torch.where(
                    batch["brain"], detector.translate(batch[c.input], batch["brain"], generator), -1.0
                ),
            }
    if hasattr(detector, "reconstruct"):
        with torch.no_grad():
            rows |= {"given back": detector.reconstruct(batch[c.input], batch["brain"], generator)}
    rows["map"] = detector.anomaly_map(batch[c.input], batch["brain"], generator)
    top = [1.0] * (len(rows) - 1) + [getattr(detector, "map_top", 1.0)]
    return show_rows(
        list(rows.values()),
        row_titles=list(rows),
        vmin=[-1.0] * (len(rows) - 1) + [0.0],
        vmax=top,
        cmap=["gray"] * (len(rows) - 1) + ["inferno"],
        label=["normalised"] * (len(rows) - 1) + ["score"],
        title=title,
        width=1.2 + 1.45 * n,
    )


COLUMNS = ("step", "samples", "loss", "lr", "grad_norm", "val_loss", "threshold", "seconds")


def log_text(
    rows,  # dicts with some of `COLUMNS`
) -> str:  # CSV
    "The log as it lies in the run folder; numbers are written so that nothing is lost."

    def line(r):
        return ",".join("" if r.get(c) is None else repr(r[c]) for c in COLUMNS)

    return "\n".join([",".join(COLUMNS), *map(line, rows)]) + "\n"


def curve_figure(
    rows,  # of the log
):  # matplotlib figure
    "Training and validation loss over the steps, and the learning rate below."
    from matplotlib.ticker import LogLocator

    from mmccd.viz import OKABE_ITO, Sheet

    sheet = Sheet(7, 3.4)
    top, low = sheet.subplots(2, 1, sharex=True, height_ratios=[3, 1])

    def column(name):
        return [[r[k] for r in rows if r.get(name) is not None] for k in ("step", name)]

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


def save_sample(
    figure,  # of the samples
    out: Path,  # folder of the run
    step: int,  # when
):
    "One picture a validation."
    from mmccd.viz import save_png

    save_png(figure, out / "samples" / f"step-{step:07d}.png", dpi=80)
