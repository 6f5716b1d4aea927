"""The explorer as one web page that needs nothing else: every strip, step and map of a slice, made beforehand."""

from __future__ import annotations

import html
import json
import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mmccd.detection.page import LEVEL, grey, inferno, sprite, to_levels
from mmccd.explorer.render import crop, truth_name
from mmccd.explorer.view import View
from mmccd.files import user_path, write_atomic, writing

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer

SWEEP = "one by one"
"""Whose strips are on the page."""
MOST_BYTES = 8_000_000
"""Of a page."""


def sheet(images: list[np.ndarray]) -> dict[str, Any]:
    """Return pictures (h w), uint8, side by side as a PNG in a data URI, and how many stand in a row."""
    columns = math.ceil(math.sqrt(len(images)))
    return {"columns": columns, "n": len(images), "src": sprite(np.stack(images), columns, "PNG")}


def pair_data(explorer: Explorer, view: View) -> dict[str, Any]:
    """Return all that the page shows of one pair of modalities: pictures, numbers, words.

    Args:
        explorer: Computes; whatever it has computed is reused.
        view: Slice, pair, width of the strips, steps and seed.
    """
    n, diffusion = len(explorer.masks(view)), explorer.detector(view).config.diffusion
    cut = lambda image: crop(explorer, image)  # noqa: E731
    views = [replace(view, swept=k, by_hand=False) for k in range(1, n + 1)]
    traces = [explorer.trace(v, v.shown_mask) for v in views]
    most = max(0.1, float(torch.cat([t.error[t.mask & t.brain] for t in traces]).quantile(0.99)))
    pictures = {
        "x": [grey(cut(traces[0].x))],
        "hidden": [(cut(t.mask) & cut(t.brain)).astype(np.uint8) * 255 for t in traces],
        "predicted": [grey(cut(s.x0)) for t in traces for s in t.steps],
        "back": [grey(cut(t.reconstruction)) for t in traces],
        "error": [(np.clip(cut(t.error) * (cut(t.mask) & cut(t.brain)) / most, 0, 1) * 255).astype(np.uint8)
                  for t in traces],
        "map": [to_levels(cut(explorer.map(v)), view.threshold) for v in views],
    }  # fmt: skip
    if diffusion:
        pictures["noisy"] = [grey(cut(s.x_t) / 2) for t in traces for s in t.steps]
    twin = explorer.slice("twin", view)
    if twin is not None:
        pictures["twin"] = [grey(cut(torch.where(explorer.brain(view), twin, -1.0)))]
    height, width = pictures["x"][0].shape
    return {
        "input": view.input.upper(),
        "target": view.target.upper(),
        "strips": n,
        "steps": len(traces[0].steps),
        "width": width,
        "height": height,
        "threshold": view.threshold,
        "errorTop": most,
        "words": [explorer.describe(v) for v in views],
        "pictures": {k: sheet(v) for k, v in pictures.items()},
    }


def explorer_data(explorer: Explorer, view: View) -> dict[str, Any]:
    """Return what the page works with: the slice of a view in every pair of modalities that networks and case allow.

    Args:
        explorer: Of the subject.
        view: The slice, and the pair that is shown first.
    """
    have = explorer.subject.case.volumes.keys()
    pairs = sorted((p for p in explorer.pairs if p[0] in have), key=lambda p: p != (view.input, view.target))
    made = []
    for i, t in pairs:
        pair = replace(view, input=i, target=t, sampler=SWEEP, swept=0, by_hand=True)
        threshold = explorer.threshold(pair) or explorer.detector(pair).map_top
        made.append(pair_data(explorer, replace(pair, threshold=threshold)))
    lesion = explorer.slice("lesion", view)
    brain = crop(explorer, explorer.brain(view)).astype(np.uint8) * 255
    masks = {"brain": sheet([brain])}
    if lesion is not None and lesion.any():
        masks["truth"] = sheet([crop(explorer, lesion).astype(np.uint8) * 255])
    return {"pairs": made, "masks": masks, "level": LEVEL, "truthName": truth_name(explorer), "colours": inferno()}


def explorer_page(explorer: Explorer, view: View) -> str:
    """Return the page, HTML with everything in it.

    Args:
        explorer: Of the subject.
        view: The slice, the pair that is shown first, width of strips, steps, seed.

    Raises:
        ValueError: It would be larger than `MOST_BYTES`.
    """
    import mmccd

    template = Template((files("mmccd.explorer") / "page.html").read_text(encoding="utf-8"))
    case = explorer.subject.case
    page = template.substitute(
        title=html.escape(f"Hide and imagine: {case.id}, slice {view.place}"),
        weights=html.escape(str(explorer.weights)),
        version=mmccd.__version__,
        data=json.dumps(explorer_data(explorer, view)).replace("</", "<\\/"),
    )
    if len(page.encode()) > MOST_BYTES:
        raise ValueError(f"the page would have {len(page) / 1e6:.0f} MB, more than 8: ask for fewer steps (--steps)")
    return page


def write_page(explorer: Explorer, view: View, path: str | Path, overwrite: bool = False) -> Path:
    """Write the page, whole or not at all.

    Raises:
        ValueError: The file is there already, or cannot be written.
    """
    path = user_path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"{path} is already there: choose another name, or give --overwrite")
    content = explorer_page(explorer, view).encode()
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomic(path, content)
