"""All that the recorded proofs ask of mmccd. After a rename or a move, this is the only file of them that changes."""

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import nibabel as nib
import numpy as np
import torch

from mmccd.cases.case import Case
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare as prepare_store
from mmccd.cases.store import SliceStore
from mmccd.cli.app import main
from mmccd.detection.maps import map_slices
from mmccd.detector import load_detector
from mmccd.intensity import DEFAULT
from mmccd.masked_diffusion import load_frozen_decoder
from mmccd.phantom import make_phantom
from mmccd.registry import METHODS, new_detector, table_methods, trainable_methods
from mmccd.training.data import store_data
from mmccd.training.run import train as train_detector
from mmccd.training_loop import TrainConfig
from mmccd.weights.hub import packaged

# Recorded before the masked methods were mended: their names stand for what is called published now.
PUBLISHED = ("masked", "mmccd")
RECORDED = ("ae", "vae", "dae", "ddpm", "cycle", "mmccd")  # rows of the benchmark


def today(name):
    "What a recorded name of a method or of packaged weights is called today."
    method, *rest = str(name).split("-")
    return "-".join([method, "published", *rest]) if method in PUBLISHED and "/" not in str(name) else name


# --------------------------------------------------------------------------------------------- detectors and their maps


def all_names():
    "Names of the detectors that come with the package."
    return packaged()


def load(name):
    "A detector on the CPU, by its packaged name or the folder of a training."
    return load_detector(today(name))


def input_of(detector):
    "The modality that a detector looks at."
    return detector.config.input


def threshold_of(detector):
    "Its calibrated threshold."
    return detector.threshold


def tensors_of(detector):
    "Its numbers as arrays, in no particular order."
    return [t.detach().cpu().numpy() for t in detector.state_dict().values()]


@cache
def subject(kind, seed, index, places):
    "A made-up subject, only some of its slices."
    return make_phantom(kind, seed, index, places)


def slices_of(detector, kind, seed, index, places, chosen):
    "Normalised slices for a detector as `detect` reads them, (b 1 h w), and their brain masks."
    case = Case.from_phantom(subject(kind, seed, index, places), modalities=[input_of(detector)])
    method = getattr(detector.config, "normalisation", DEFAULT)
    return case.slices(input_of(detector), list(chosen), method=method), case.brain_slices(list(chosen))


def map_of(detector, x, brain, seed):
    "The anomaly map as `detect` makes it: resized, scored, resized back; float32, (b 1 h w)."
    return map_slices(detector, x, brain, torch.Generator().manual_seed(seed)).numpy()


# ------------------------------------------------------------------------------------------------------------- commands


def run_cli(words):
    "The command `mmccd` in this process; refuses to go on after an error."
    then = {m: replace(METHODS[m], config={}) for m in PUBLISHED}
    if words[0] == "benchmark":  # the rows that there were
        words = [*words, "--methods", ",".join(m for m in table_methods(by_default=True) if m in RECORDED)]
    with patch.dict(METHODS, then):
        code = main([str(w if words[0] == "benchmark" else today(w)) for w in words])
    if code:
        raise RuntimeError(f"mmccd {' '.join(map(str, words))} ended with {code}")


def voxels(folder, ending=""):
    "The volumes in and below a folder, as they are on disk, by file name."
    files = sorted(Path(folder).rglob(f"*{ending}.nii.gz"))
    return {p.name: np.asarray(nib.load(p).dataobj) for p in files}


# ------------------------------------------------------------------------------------------------- stores and trainings


def prepare(place, seed, size, places, modalities, **counts):
    "A store of slices of made-up subjects; `counts` by kind."
    options = dict(size=size, slices=places, modalities=list(modalities), jobs=1, progress=False)
    failed = prepare_store(Phantoms(seed=seed, **counts), place, **options)["failed"]
    if failed:
        raise RuntimeError(f"subjects could not be prepared: {failed}")


def rows_of(place):
    "The table of a store: (id, place, brain_cm2, lesion_cm2) of each slice."
    return [(r.id, int(r.place), float(r.brain_cm2), float(r.lesion_cm2)) for r in SliceStore(place).table]


def batch_of(place):
    "All slices of a store as one batch: arrays by modality, and `brain` and `lesion`."
    data = SliceStore(place).dataset(tumour_free=False)
    return {k: v.numpy() for k, v in data.batch(range(len(data))).items()}


def all_methods():
    "Names of the methods that can be trained."
    return list(trainable_methods())


def train(method, place, out, input, target, back=None, **config):
    "Train on a store, `back` being the run whose way back is taken; gives the log without seconds, and the tensors."
    data, val = store_data(place, input, target, val=1)
    made = {k: data.recipe[k] for k in ("size", "normalisation")}
    detector = new_detector(today(method), 0, input=input, target=target, unet="tiny", **made)
    if back:
        load_frozen_decoder(detector, load(back))
    train_detector(detector, data, val, out, TrainConfig(**config), device="cpu", progress=False)
    with open(Path(out) / "log.csv", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v and k != "seconds"} for row in csv.DictReader(file)]
    return rows, tensors_of(load(out))
