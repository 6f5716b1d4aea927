"""How well the networks of a cycle translate healthy brains that they have not seen."""

from __future__ import annotations

import torch

from mmccd.benchmark.dataset import load_evaluation_set
from mmccd.detector import Detector
from mmccd.intensity import BACKGROUND
from mmccd.slices import resize, resize_labels
from mmccd.summary import summarise
from mmccd.training_loop import masked_mean


@torch.no_grad()
def translation_error(detector: Detector, batch: dict[str, torch.Tensor]) -> float:
    """Mean squared error of the translation inside the brain, at the network's size."""
    c = detector.config
    edge = BACKGROUND.get(c.normalisation, -1.0)
    x, y = (resize(batch[m], c.size, edge).to(detector.device) for m in (c.input, c.target))
    brain = resize_labels(batch["brain"], c.size).to(detector.device)
    return masked_mean((detector.translate(x, brain) - y) ** 2, brain).item()


def translation(measured) -> dict[str, dict]:
    """By pair, over the healthy subjects: the error of the shared network, of two networks, and their difference."""
    healthy, device = load_evaluation_set(measured.plan).healthy, measured.job.device
    found: dict[str, dict[str, list[float]]] = {}
    names = {"cycle": "shared", "two networks": "two networks"}
    for row in (r for r in measured.rows if r.method in names):
        detector = row.load().to(device)
        errors = [translation_error(detector, s.batch) for s in healthy]
        found.setdefault(f"{row.input}-{row.target}", {})[names[row.method]] = errors
    for errors in found.values():
        if len(errors) == 2:
            errors["shared - two networks"] = [a - b for a, b in zip(*errors.values())]
    return {p: {k: summarise([{k: e} for e in v], k) for k, v in errors.items()} for p, errors in found.items()}
