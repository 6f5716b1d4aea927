"The cycle and the masked networks go through the training loop like any other detector."

import os
import signal

import pytest
import torch
from toy_data import Toy

from mmccd.detector import Detector
from mmccd.masked_diffusion import MMCCD
from mmccd.masked_translation import Sampler
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.training.checkpoint import checkpoints
from mmccd.training.run import train
from mmccd.training_loop import TrainConfig
from mmccd.unet import UNetConfig

SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(16,), heads=2)
THREE = ("flair", "t1", "t2")


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


QUICK = TrainConfig(steps=6, batch_size=4, warmup=2, log_every=2, checkpoint_every=3, validate_every=3, val_slices=4)


def start():
    return new_detector("cycle", 0, input="flair", target="t2", modalities=THREE, size=32, unet=SMALL)


def fit(out, data=None, **kwargs):
    return train(start(), data or Toy(), Toy(4, seed=1), out, QUICK, progress=False, device="cpu", **kwargs)


class Stops(Toy):
    "Asks the process to stop when the batch of the fifth step is asked for."

    seen = 0

    def batch(self, indices):
        self.seen += 1 < len(indices) < len(self)
        if self.seen == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(indices)


def test_interrupted_and_resumed(tmp_path):
    "The pairs are drawn anew at each step: after an interruption they are the same, and so is every bit."
    fit(tmp_path / "plain")
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d of 6"):
        fit(tmp_path / "run", Stops())
    assert next(p.name for p in checkpoints(tmp_path / "run")) == "step-0000003.ckpt"
    assert not (tmp_path / "run/README.md").exists()
    fit(tmp_path / "run", resume=True)
    a, b = (tmp_path / n / "model.safetensors" for n in ("plain", "run"))
    assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "plain/config.json").read_text() == (tmp_path / "run/config.json").read_text()
    d = Detector.from_pretrained(tmp_path / "run")
    assert d.config.modalities == THREE
    assert d.threshold > 0
    assert d.for_pair("t1", "t2").calibration is None
    assert any(not torch.equal(v, start().state_dict()[k]) for k, v in d.state_dict().items())


def test_masked_one_learns(tmp_path):
    torch.manual_seed(0)  # the weights it begins with, whatever ran before
    d, data = MMCCD(size=32, modalities=THREE, unet=SMALL, sampler=Sampler(width=16)), Toy(12)
    record = train(
        d,
        data,
        Toy(4, seed=9),
        tmp_path / "run",
        TrainConfig(steps=40, batch_size=8, lr=5e-3, warmup=2, ema=0.8, validate_every=40, val_slices=2),
        progress=False,
    )
    log = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    first = float(log[1][log[0].index("val_loss")])
    assert record["result"]["val_loss"] < 0.9 * first
    again = Detector.from_pretrained(tmp_path / "run")
    assert type(again) is MMCCD
    assert again.threshold > 0
    assert (tmp_path / "run" / "samples").is_dir()
