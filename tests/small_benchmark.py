"""Benchmarks that take seconds; importable, so that worker processes know their plans."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from mmccd.benchmark.networks import entries
from mmccd.benchmark.plan import FOLDED, RECIPES, Plan, Recipe
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.records import sealed, slice_checks
from mmccd.cases.store import SliceStore
from mmccd.training_loop import TrainConfig

SHORT = TrainConfig(
    steps=4,
    batch_size=4,
    warmup=1,
    log_every=2,
    checkpoint_every=2,
    validate_every=2,
    val_slices=2,
    patience=2,
    progress=0.02,
)
SOME, BOTH = ("dae", "cycle", "mmccd"), (("flair", "t2"), ("t2", "flair"))
FILES = {
    "benchmark.json",
    "tables.md",
    "tables.tex",
    "maps.png",
    "precision_recall.png",
    "dice_by_size.png",
    "ap_evaluations.png",
    "plan.json",
}


class SmallPlan(Plan):
    "Eight phantoms, networks of four steps."

    @property
    def recipe(self):
        return Recipe(
            size=32,
            scored=48,
            training=SHORT,
            unet=FOLDED,
            learn=Phantoms(healthy=3, seed=501),
            val=1,
            calibrate=Phantoms(healthy=1, seed=503),
            test=Phantoms(healthy=1, glioma=2, ms=1, seed=502),
            train_places=range(74, 78),
            test_places=range(74, 78),
            calibration_slices=3,
            healthy_slices=1,
        )


class ScanPlan(Plan):
    "The same for scans of ten slices."

    @property
    def recipe(self):
        return replace(
            RECIPES["smoke"],
            training=SHORT,
            test_places=range(2, 8),
            train_places=range(10),
            calibration_slices=4,
        )


def sentence(f, *args, **kw):
    "The one line with which something is refused."
    with pytest.raises(ValueError, match=r"^.+$") as error:
        f(*args, **kw)
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def without_times(x):
    "A result without what says when, by which command, and how long it took."
    if isinstance(x, dict):
        return {k: without_times(v) for k, v in x.items() if k not in ("date", "seconds", "command")}
    return [without_times(v) for v in x] if isinstance(x, list) else x


def written(plan):
    "The result as it is on the disk."
    return json.loads((Path(plan.out) / "benchmark.json").read_text())


def entry(plan, key):
    return next(e for e in entries(plan) if e.key == key)


def raw_arrays(store, id):
    "Images and masks of a subject as they are in the store."
    group = zarr.open_group(str(store), mode="r")[id]
    return np.asarray(group["images"][:], np.float32), np.asarray(group["masks"][:]) > 0


def spoil(store, channel, change):
    "Change one channel of all that a store keeps, checksums too: images by modality, or masks (0 brain, 1 lesion)."
    for id in SliceStore(store).ids:
        if isinstance(channel, int):
            name, k = "masks", channel
        else:
            name, k = "images", SliceStore(store).recipe["modalities"].index(channel)
        array = zarr.open_array(str(store), path=f"{id}/{name}", mode="r+")
        values = array[:]
        values[:, k] = change(values[:, k])
        array[:] = values
        group = zarr.open_group(str(store), path=id)
        checks = slice_checks(group["images"][:], group["masks"][:])
        group.attrs.put(sealed("case", {**group.attrs["case"], "checks": checks}))
