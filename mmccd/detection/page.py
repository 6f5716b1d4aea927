"""A case as one web page that needs nothing else: slices to scroll, the map over the scan, a threshold to move."""

from __future__ import annotations

import html
import io
import json
import math
from base64 import b64encode
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from mmccd.cases.grid import volume_ml, voxel_size
from mmccd.slices import to_slices
from mmccd.viz import crop_to

if TYPE_CHECKING:
    from mmccd.detection.report import Detection

LEVEL = 64
"""Grey level of the threshold in the picture of the map; 255 is the brightest, about four times the threshold."""

MOST_SLICES, MOST_PIXELS = 160, 200  # shown; a larger case is thinned
MOST_BYTES = 5_000_000  # of a page


def to_levels(anomaly: np.ndarray, threshold: float) -> np.ndarray:
    """Return a map as uint8, `LEVEL` and more where it is above the threshold, 0 where it is 0."""
    top = threshold if threshold > 0 else float(anomaly.max()) / 255 * LEVEL or 1.0
    levels = np.ceil(anomaly / top * LEVEL) - 1  # the threshold itself is not above it
    return (np.clip(levels, 0, 254) + 1).astype(np.uint8) * (anomaly > 0)


def sprite(slices: np.ndarray, columns: int, kind: str) -> str:
    """Return slices (n h w), uint8, as one picture with `columns` of them side by side: a data URI.

    Args:
        slices: to show.
        columns: of the grid.
        kind: "WEBP", smaller and nearly the same, or "PNG", exact.
    """
    from PIL import Image

    n, h, w = slices.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * columns, h, w), np.uint8)
    sheet[:n] = slices
    sheet = sheet.reshape(rows, columns, h, w).transpose(0, 2, 1, 3).reshape(rows * h, columns * w)
    out = io.BytesIO()
    options = {"quality": 80} if kind == "WEBP" else {"compress_level": 6}
    Image.fromarray(sheet).save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{b64encode(out.getvalue()).decode()}"


def marked_ml(levels: np.ndarray, found: Detection) -> list[float]:
    """Return how many ml of the case are marked with each level as the threshold; of level 0, the brain."""
    counts = np.bincount(levels[found.case.brain], minlength=256)
    at_least = counts[::-1].cumsum()[::-1]
    return [round(float(n) * volume_ml(np.ones(1, bool), found.case.affine), 2) for n in at_least]


def inferno() -> list[list[int]]:
    """Return the colours of the levels, as the reports have them."""
    from matplotlib import colormaps

    return (np.array([colormaps["inferno"](i / 255)[:3] for i in range(256)]) * 255).round().astype(int).tolist()


def page_data(found: Detection, coarser: int = 0) -> dict[str, Any]:
    """Return what the script of the page works with: pictures, volumes, where it starts.

    Args:
        found: what a detector found.
        coarser: how many more pixels than usual become one along each side.
    """
    case = found.case
    shown = np.flatnonzero(case.brain.any((0, 1)))
    shown = shown[:: -(-len(shown) // MOST_SLICES)]
    box = crop_to(to_slices(case.brain))
    step = -(-max(s.stop - s.start for s in box) // MOST_PIXELS) + coarser

    def cut(volume: np.ndarray) -> np.ndarray:
        return to_slices(volume, shown.tolist())[:, 0].numpy()[:, *box][:, ::step, ::step]

    levels = to_levels(found.anomaly, found.threshold)
    small = cut(levels)
    columns = math.ceil(math.sqrt(len(shown)))
    images = {m: sprite(grey(cut(case.normalised(m))), columns, "WEBP") for m in found.inputs}
    images["map"] = sprite(small, columns, "PNG")
    if case.lesion is not None and case.lesion.any():
        images["truth"] = sprite(cut(case.lesion).astype(np.uint8) * 255, columns, "PNG")
    area = (small >= LEVEL).sum((1, 2))
    height, width = small.shape[1:]
    across, down = voxel_size(case.affine)[:2]
    return {
        "inputs": found.inputs,
        "slices": shown.tolist(),
        "columns": columns,
        "width": width,
        "height": height,
        "aspect": f"{width * across:.5g} / {height * down:.5g}",
        "level": LEVEL,
        "ml": marked_ml(levels, found),
        "start": int(area.argmax()) if area.any() else len(shown) // 2,
        "sides": bool(case.grid.oriented),
        "colours": inferno(),
        "images": images,
    }


def grey(x: np.ndarray) -> np.ndarray:
    """Return normalised slices as uint8: -1 is black, 1 white."""
    return (np.clip((x + 1) / 2, 0, 1) * 255).round().astype(np.uint8)


def case_page(found: Detection) -> str:
    """Return the page of a case, HTML with everything in it, at most `MOST_BYTES` long."""
    import mmccd

    template = Template((files("mmccd.detection") / "page.html").read_text(encoding="utf-8"))
    data = next(
        d for n in range(99) if sum(map(len, (d := page_data(found, n))["images"].values())) < 0.95 * MOST_BYTES
    )
    about = f"{found.detector} on {' and '.join(m.upper() for m in found.inputs)}, threshold {found.threshold:.3g}"
    about += "".join(f"; {v:.0%} of the evidence from {m.upper()}" for m, v in found.shares.items() if v < 1)
    about += f"; map after: {found.post}" * bool(found.post)
    colours = data["colours"][LEVEL::16]
    return template.substitute(
        title=html.escape(f"{found.case.id}: what is unusual"),
        about=html.escape(about),
        notes="".join(f"<p>{html.escape(note)}</p>" for note in found.case.notes),
        gradient=", ".join(f"rgb({r},{g},{b})" for r, g, b in colours),
        version=mmccd.__version__,
        data=json.dumps(data).replace("</", "<\\/"),
    )
