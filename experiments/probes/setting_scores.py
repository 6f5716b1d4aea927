"""What a setting of a detector does with a slice: samplers with their poolings, options, no mask at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from evidence import Evidence

from mmccd.benchmark.dataset import load_subject, store_paths
from mmccd.cases.store import SliceStore
from mmccd.detector import Detector, load_detector
from mmccd.error_normalisation import healthy_mean
from mmccd.intensity import BACKGROUND, DEFAULT
from mmccd.masked_diffusion import with_config
from mmccd.masked_translation import Sampler
from mmccd.masking import MaskPlan, pool, std_over_masks
from mmccd.scoring import average_precision
from mmccd.slices import resize, resize_back, resize_labels

POOLS = {
    "mean": pool,
    "min": lambda e, m: pool(e, m, "min"),
    "median": lambda e, m: pool(e, m, "median"),
    "spread": std_over_masks,
}
SHIPPED, DIVIDED, AVERAGED = "as shipped", "divided by healthy means", "both targets averaged"


def generator() -> torch.Generator:
    """The same noise for every setting."""
    return torch.Generator().manual_seed(0)


def at_network_size(batch: dict, input: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice and its brain as the detector is given them."""
    return resize(batch[input], size, BACKGROUND.get(DEFAULT, -1.0)), resize_labels(batch["brain"], size)


def score(anomaly: torch.Tensor, batch: dict, evaluations: int) -> dict[str, float]:
    """AP of a map at the network's size, and its mean inside and outside the lesion."""
    brain, lesion = batch["brain"], batch["lesion"]
    a = resize_back(anomaly, brain.shape[-2:])
    means = {"lesion": a[brain & lesion].mean().item(), "rest": a[brain & ~lesion].mean().item()}
    return {"ap": average_precision(a[brain], lesion[brain]), **means, "evaluations": evaluations}


def by_sampler(detector: Detector, batch: dict, sampler: Sampler) -> dict[str, dict]:
    """Scores of one sampler by pooling."""
    c = detector.config
    x, brain = at_network_size(batch, c.input, c.size)
    found = detector.maps(x, brain, generator(), sampler=sampler, pools=tuple(POOLS.values()))
    plan = MaskPlan(sampler.family(c.size), brain, skip=sampler.skip)
    cost = plan.cost(sampler.steps if c.diffusion else 1)
    return {name: score(torch.where(brain, a, 0.0), batch, cost) for name, a in zip(POOLS, found)}


def by_detector(detector: Detector, batch: dict, healthy: torch.Tensor | float = 1.0) -> dict[str, dict]:
    """Scores of the detector's own map, divided by its mean over healthy subjects."""
    c, cost = detector.config, 2
    x, brain = at_network_size(batch, c.input, c.size)
    if hasattr(c, "sampler"):
        cost = MaskPlan(c.sampler.family(c.size), brain).cost(c.sampler.steps if c.diffusion else 1) * (
            1 + len(c.extra_targets)
        )
    return {"mean": score(detector.anomaly_map(x, brain, generator()) / healthy, batch, cost)}


@torch.no_grad()
def unmasked(detector: Detector, batch: dict) -> dict[str, dict]:
    """Scores where nothing is hidden and every pixel is compared: MMCCD without masks."""
    x, brain = at_network_size(batch, detector.config.input, detector.config.size)
    trace = detector.trace(x, torch.zeros_like(brain), brain, generator(), Sampler())
    return {"mean": score(trace.error, batch, 2)}


def mean_over_healthy(plan: Evidence, detector: Detector) -> torch.Tensor:
    """The mean map of the healthy validation subjects, every fourth slice."""
    store, c = SliceStore(store_paths(plan)["test"]), detector.config
    batches = [load_subject(plan, store, id).batch for id in store.ids if "healthy" in id]
    both = [at_network_size(b, c.input, c.size) for b in batches]
    return healthy_mean(detector, *(torch.cat(v) for v in zip(*both)), generator())


@lru_cache(maxsize=4)
def scorer(plan: Evidence, weights: str, setting: str, sampler: Sampler | None) -> Callable[[dict], dict]:
    """The function that scores a slice under a setting."""
    detector = load_detector(weights)
    if sampler:
        return lambda batch: by_sampler(detector, batch, sampler)
    if setting == SHIPPED:
        return lambda batch: by_detector(detector, batch)
    if setting == DIVIDED:
        mean = mean_over_healthy(plan, detector)
        return lambda batch: by_detector(detector, batch, mean)
    if setting == AVERAGED:
        c = detector.config
        both = with_config(detector, extra_targets=tuple(m for m in c.modalities if m not in (c.input, c.target)))
        return lambda batch: by_detector(both, batch)
    return lambda batch: unmasked(detector, batch)
