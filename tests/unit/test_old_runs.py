"A training that version 0.1.0 started goes on; its record names a module, an older fingerprint and older fields."

import json

import pytest
import torch
from detector_laws import toy_slices

from mmccd.registry import new_detector
from mmccd.training.record import describe_run, open_run
from mmccd.training_loop import TrainConfig


class Data:
    "Eight slices of three modalities."

    def __len__(self):
        return 8

    def batch(self, indices):
        x, brain = (v[list(indices)] for v in toy_slices(b=8))
        return {"flair": x, "t1": -x, "t2": x.clone(), "brain": brain, "lesion": torch.zeros_like(brain)}


UNET = {"channels": 8, "mults": (1, 2), "blocks": 1, "attention": ()}


@pytest.fixture
def runs(tmp_path):
    "What a run is about today, and a function that writes the record of version 0.1.0."
    d = new_detector("masked", input="flair", target="t2", size=32, unet=UNET)
    about = describe_run(d, Data(), Data(), TrainConfig())
    config = {{"frozen_decoder": "frozen_back"}.get(k, k): v for k, v in about["config"].items()}

    def write(**changes):
        old = {**about, "module": "mmccd.masked_diffusion", "start": "0" * 16, "config": config | changes}
        (tmp_path / "train.json").write_text(json.dumps({"status": "not done", "about": old}))
        return tmp_path

    return about, write


def test_it_goes_on(runs):
    about, write = runs
    checkpoint, record = open_run(write(), about, resume=True)
    assert checkpoint is None
    assert record["about"] == about


def test_other_settings_are_refused_as_ever(runs):
    about, write = runs
    with pytest.raises(ValueError, match=r"Cannot go on with the training in .*was given and is not given now"):
        open_run(write(frozen_back=True), about, resume=True)
