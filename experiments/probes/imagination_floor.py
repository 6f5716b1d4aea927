"""What the generator itself leaves open about a hidden part: parts of healthy heads drawn anew while the rest stays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from evidence import Job, in_parallel, span

from mmccd.anatomy import GRID, stream
from mmccd.cases.case import Case
from mmccd.cases.prepare import case_arrays, make_recipe
from mmccd.intensity import DEFAULT
from mmccd.phantom import Phantom, make_slab
from mmccd.scanner import HEALTHY
from mmccd.schemas import checked
from mmccd.slices import MIN_BRAIN, field_of_view, resize, to_slices

TEXTURE = ("texture", "noise")
FOLDS = (*TEXTURE, "gyri", "vessels")
REDRAWN = {"texture": TEXTURE, "folds": FOLDS, "scanner": (*FOLDS, "scanner", "tissue", "bias")}
"""First words of the names of the streams that are drawn anew; the head's shape stays in all of them."""


@dataclass(frozen=True)
class Options:
    """What the recipe says.

    Attributes:
        heads: Healthy phantoms.
        seed: Of these.
        draws: How often each part is drawn anew.
        size: Pixels along a side of the slices.
        places: First and last axial place that counts.
        apart: Of each head every so manieth place is made, the first at `index % apart`; brightness is measured there.
        modalities: Which.
    """

    heads: int
    seed: int
    draws: int
    size: int
    places: tuple[int, int]
    apart: int
    modalities: tuple[str, ...]


def redraw(seed: int, index: int, name: str, words: tuple[str, ...], again: int) -> np.random.Generator:
    """The subject's own stream of a name, or a new one where the name begins with one of the words."""
    new = f"{name} again {again}" if name.split()[0] in words else name
    return stream("healthy", seed, index, new)


def arrays(phantom: Phantom, o: Options) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A head as a store for training holds it: images (m n size size), brain (n size size), tissue (n size size).

    The tissue is the place in `HEALTHY` of the one that covers most of the pixel.
    """
    case = Case.from_phantom(phantom, modalities=o.modalities)
    recipe = make_recipe(o.size, span(o.places), list(o.modalities), False, MIN_BRAIN, True, DEFAULT)
    images, masks, rows = case_arrays(case, recipe)
    index, region = [phantom.slices.index(row[0]) for row in rows], field_of_view(case.brain, case.affine)
    labels = to_slices(phantom.tissue, index)
    covered = [resize((labels == 1 + k).float(), o.size, 0.0, region) for k in range(len(HEALTHY))]
    return images.astype(np.float64).swapaxes(0, 1), masks[:, 0] > 0, torch.cat(covered, 1).argmax(1).numpy()


def measure(o: Options, index: int) -> dict[str, Any]:
    """Sums over the brain of one head.

    Returns:
        `pixels` by tissue (t,); `sum` and `square` of the values by modality (m,); and in `error` the variance over the
        draws (m t), by what is drawn anew.
    """
    head = partial(make_slab, "healthy", o.seed, index, range(index % o.apart, GRID[2], o.apart))
    images, brain, tissues = arrays(head(), o)
    x, tissue = images[:, brain], tissues[brain]
    found = {"pixels": np.bincount(tissue, minlength=len(HEALTHY)), "sum": x.sum(1), "square": (x**2).sum(1)}
    found["error"] = {}
    for name, words in REDRAWN.items():
        others = [partial(redraw, o.seed, index, words=words, again=again) for again in range(o.draws)]
        variance = np.var([x, *(arrays(head(rng=rng), o)[0][:, brain] for rng in others)], 0, ddof=1)
        found["error"][name] = np.stack([np.bincount(tissue, v, len(HEALTHY)) for v in variance])
    return found


def ceiling(heads: list[dict[str, Any]], name: str, k: int) -> dict[str, Any]:
    """Error of the best guess, variance of the target, and the R2 that they leave, for the `k`-th modality.

    Args:
        heads: From `measure`.
        name: What is drawn anew.
    """
    pixels, errors = np.array([h["pixels"] for h in heads]), np.array([h["error"][name][k] for h in heads])
    n, total, squares = pixels.sum(), sum(h["sum"][k] for h in heads), sum(h["square"][k] for h in heads)
    variance, error, each = squares / n - (total / n) ** 2, errors.sum() / n, errors.sum(1) / pixels.sum(1)
    tissues = zip(HEALTHY, errors.sum(0) / np.maximum(pixels.sum(0), 1), pixels.sum(0))
    return {
        "error": error,
        "variance": variance,
        "r2": 1 - error / variance,
        "tissue": {t: 1 - e / variance for t, e, p in tissues if p},
        "heads": (1 - each / variance).tolist(),
    }


def run(options: dict[str, Any], job: Job) -> dict[str, Any]:
    """Measure all heads, and pool them."""
    o = checked(options, Options, "the recipe", "correct that option")
    heads = list(in_parallel(measure, [(o, i) for i in range(o.heads)], job.jobs))
    found = {}
    for name, words in REDRAWN.items():
        modalities = {m: ceiling(heads, name, k) for k, m in enumerate(o.modalities)}
        found[name] = {"streams": list(words), "modalities": modalities}
        job.say(f"{name:8} R2 " + ", ".join(f"{m} {r['r2']:.3f}" for m, r in modalities.items()))
    pixels = sum(h["pixels"] for h in heads)
    about = {"kind": "healthy", "n": o.heads, "seed": o.seed, "draws": o.draws, "size": o.size}
    return about | {"tissue_share": dict(zip(HEALTHY, (pixels / pixels.sum()).tolist())), "redrawn": found}
