"""What has to hold on a GPU. It needs PyTorch, einops, lightning and pytest, and no package that reads scans.

`experiments/gpu_run.sh cuda-tests` runs it on a lent GPU; MMCCD_TEST_DEVICE=cpu tries it without one.
"""

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import QUICK, Toy, detector

from mmccd.detector import load_detector
from mmccd.runtime import kept_random_state
from mmccd.training.loader import PieceLoader
from mmccd.training.run import train
from mmccd.training_loop import Batches

DEVICE = os.environ.get("MMCCD_TEST_DEVICE", "cuda")
EXPERIMENTS = str(Path(__file__).resolve().parents[2] / "experiments")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs CUDA"),
]


@pytest.fixture
def exact():
    "32 bits are 32 bits."
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [p.allow_tf32 for p in places]
    for p in places:
        p.allow_tf32 = False
    yield
    for p, value in zip(places, before):
        p.allow_tf32 = value


def some_slices(modality, n=2):
    "Packed slices where the script carries them, else toys; both 64 pixels wide."
    if not (path := os.environ.get("DATA")):
        from detector_laws import toy_slices

        return toy_slices(n, 64, 64)
    if EXPERIMENTS not in sys.path:
        sys.path.append(EXPERIMENTS)
    found = importlib.import_module("pack_slices").PackedSlices.load(path)
    batch = found.batch([k * len(found) // n for k in range(n)])
    return batch[modality], batch["brain"]


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["threshold-flair", "cycle-flair-t2", "dae-flair"])
def test_a_map_is_that_of_the_cpu(name):
    d, (x, brain) = load_detector(name), some_slices("flair")
    here = d.anomaly_map(x, brain, generator=torch.Generator().manual_seed(0))
    there = d.to(DEVICE).anomaly_map(x.to(DEVICE), brain.to(DEVICE), generator=torch.Generator().manual_seed(0))
    assert there.device.type in (DEVICE, "cpu")
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=1e-4)
    assert (there.cpu()[~brain] == 0).all()


def test_mmccd_draws_the_same_noise_again():
    d, (x, brain) = load_detector("mmccd-flair-t2").to(DEVICE), some_slices("flair", 1)
    maps = []
    for seed in (0, 0, 1):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        maps.append(d.anomaly_map(x.to(DEVICE), brain.to(DEVICE), generator=generator).cpu())
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(maps[0], maps[2], rtol=1e-3, atol=1e-4)
    assert (maps[0] >= 0).all()
    assert (maps[0][~brain] == 0).all()


def test_half_the_bits_cost_little():
    d, batch = detector().to(DEVICE), {k: v.to(DEVICE) for k, v in Toy().batch(range(8)).items()}
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast(DEVICE, precision, enabled=precision != torch.float32), kept_random_state():
            torch.manual_seed(0)
            losses.append(d.eval().loss(batch, torch.Generator(DEVICE).manual_seed(0)).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("workers", [0, 1])
def test_pieces_are_ready_where_a_gpu_fetches_them(workers):
    batches = Batches(Toy(), replace(QUICK, steps=4))
    got = list(PieceLoader(batches, workers, gpu=True))
    assert [step for step, _, _ in got] == [0, 1, 2, 3]
    for (_, _, a), (_, _, b) in zip(got, batches):
        assert torch.equal(a["flair"], b["flair"])
        assert a["flair"].is_pinned() == torch.cuda.is_available()


def test_a_training_goes_on_where_it_stopped(tmp_path):
    "Not bit for bit on a GPU, whose sums come in any order."
    pytest.importorskip("matplotlib", reason="a training draws samples")
    config, data = replace(QUICK, steps=8, checkpoint_every=4, validate_every=4), Toy()
    ends = {}
    for name, parts in (("whole", (8,)), ("parts", (4, 8))):
        for steps in parts:
            half = StoppingAt(steps) if steps < config.steps else data
            try:
                train(detector(), half, Toy(8, seed=1), tmp_path / name, config, True, DEVICE, progress=False)
            except KeyboardInterrupt:
                assert steps < config.steps
        ends[name] = load_detector(tmp_path / name).state_dict()
    for key, wanted in ends["whole"].items():
        torch.testing.assert_close(ends["parts"][key], wanted, rtol=1e-2, atol=1e-4)


class StoppingAt(Toy):
    "Slices whose reading is stopped after some batches."

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def batch(self, indices):
        if 1 < len(indices) < len(self):
            self.left -= 1
            if self.left < -1:  # one is read ahead
                raise KeyboardInterrupt
        return super().batch(indices)
