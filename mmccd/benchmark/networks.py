"""The networks of a benchmark: built, trained, and loaded again for each row of the tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mmccd.benchmark.dataset import load_training_data, store_paths
from mmccd.benchmark.plan import Plan
from mmccd.cases.store import SliceStore
from mmccd.detector import Detector, load_detector
from mmccd.masked_diffusion import MMCCD, load_frozen_decoder, with_config
from mmccd.registry import METHODS, new_detector
from mmccd.runtime import pick_device
from mmccd.training.run import train
from mmccd.unet import preset
from mmccd.weights.hub import packaged, packaged_places


def run_folder(plan: Plan, method: str) -> Path:
    """The folder in which a method is trained."""
    return Path(plan.out) / "runs" / method


def untrained(plan: Plan, method: str, recipe: Mapping[str, Any]) -> Detector:
    """A detector that has learned nothing, with one network for all pairs, or for the only pair.

    Args:
        plan: The benchmark.
        method: Name of a trainable method.
        recipe: Of the store to learn from; its `size`, `fov` and `normalisation` become the detector's.
    """
    paired = METHODS[method].paired
    name, changes = plan.recipe.unet if paired else (plan.recipe.unet[0], {})
    if paired:
        modalities = plan.modalities if len(plan.pairs) > 1 else ()
    else:
        modalities = plan.inputs if len(plan.inputs) > 1 else ()
    input, target = plan.pairs[0]
    return new_detector(
        method,
        plan.seed,
        input=input,
        target=target,
        modalities=modalities,
        unet=preset(name, **changes) if changes else name,
        size=recipe["size"],
        fov=recipe["fov"],
        normalisation=recipe["normalisation"],
    )


def train_method(plan: Plan, method: str, progress: bool = False) -> dict[str, Any]:
    """Train a method, or go on with it; a training that is done is left alone.

    Args:
        plan: The benchmark.
        method: Name of a trainable method; the decoder that it takes over must be trained.
        progress: Show a bar of its own.

    Returns:
        The record of the run, as in its train.json.
    """
    data, val = load_training_data(plan)
    detector = untrained(plan, method, data.recipe)
    if decoder := METHODS[method].decoder_from:
        load_frozen_decoder(cast(MMCCD, detector), load_detector(run_folder(plan, decoder)))
    return train(
        detector, data, val, run_folder(plan, method), plan.training, resume=True, device=plan.device, progress=progress
    )


@dataclass(frozen=True)
class Entry:
    """One row of the tables: a method, for one pair or one input.

    Attributes:
        key: Its name in results, such as `"cycle-flair-t2 shipped"`.
        method: Name of the method.
        input: Modality; None for everything positive, which takes none.
        target: Modality; None where the method takes one alone.
        shipped: Are these the weights that come with the package?
    """

    key: str
    method: str
    input: str | None
    target: str | None
    shipped: bool


def entries(plan: Plan) -> list[Entry]:
    """All rows of the tables, method by method; shipped weights follow those trained here."""
    found = []
    for name in plan.methods:
        method = METHODS[name]
        ways: list[tuple[str | None, str | None]] = [(x, None) for x in plan.inputs]
        if method.paired:
            ways = list(plan.pairs)
        elif method.blind:
            ways = [(None, None)]
        for shipped in (False, True):
            for x, y in ways:
                key = "-".join(v for v in (name, x, y) if v)
                if is_measured(plan, name, key, shipped):
                    found.append(Entry(f"{key} shipped" if shipped else key, name, x, y, shipped))
    return found


def is_measured(plan: Plan, method: str, key: str, shipped: bool) -> bool:
    """Does the plan have this row? Nothing is shipped of methods that learn nothing; they are always there."""
    if not METHODS[method].trainable:
        return not shipped
    if shipped:
        return plan.shipped != "no" and key in packaged()
    return plan.shipped != "only"


def load_entry(plan: Plan, entry: Entry) -> Detector:
    """The detector of a row, on the plan's device; its training must be done.

    Raises:
        ValueError: Its normalisation is not that of the slices.
    """
    normalisation = SliceStore(store_paths(plan)["test"]).recipe["normalisation"]
    if not METHODS[entry.method].trainable:
        config: dict[str, Any] = {"input": entry.input} if entry.input else {}
        d = new_detector(entry.method, normalisation=normalisation, **config)
    elif entry.shipped:
        place: Any = packaged_places()[entry.key.removesuffix(" shipped")]  # whatever is in the working directory
        d = load_detector(place)
    else:
        trained: Any = load_detector(run_folder(plan, entry.method))
        d = trained.for_pair(entry.input, entry.target) if entry.target else trained.for_modality(entry.input)
    if (made := getattr(d.config, "normalisation", normalisation)) != normalisation:
        raise ValueError(
            f"{entry.key} was made for slices with normalisation {made}, and these have {normalisation}: "
            "prepare them the same way, or leave --shipped out"
        )
    return (with_config(d, sampler=plan.sampler) if isinstance(d, MMCCD) else d).to(pick_device(plan.device)).eval()
