"""Minutes of a GPU are few: the script for it runs here, without what such a machine lacks, and goes on."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import load_detector
from mmccd.masked_diffusion import MMCCD, MaskedUNet
from mmccd.training_loop import ema_average

ROOT = Path(__file__).resolve().parents[2]
LACKING = ("nibabel", "nilearn", "zarr", "numcodecs", "pandas", "jupyter", "nbdev", "fastcore", "ipywidgets")
LACKING += ("sklearn", "matplotlib", "PIL", "isal", "hypothesis", "distributed")
NOT_INSTALLED = """
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError

find_spec, from_name = PathFinder.find_spec, Distribution.from_name


def find_others(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in LACKING else find_spec(name, path, target)


def others_from_name(cls, name):
    if name in LACKING:
        raise PackageNotFoundError(name)
    return from_name(name)


PathFinder.find_spec, Distribution.from_name = classmethod(find_others), classmethod(others_from_name)
"""
gpu = importlib.import_module("gpu_train")
packing = importlib.import_module("pack_slices")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu") / "slices.zarr"
    wanted = Phantoms(healthy=2, every=31, seed=5)
    prepare(wanted, place, size=64, slices=range(60, 126), modalities=["flair", "t1", "t2"], progress=False)
    return place


@pytest.fixture(scope="module")
def packed(store):
    packing.pack(store, store.parent / "slices.safetensors")
    return store.parent / "slices.safetensors"


def test_packed_slices_are_those_of_the_store(store, packed):
    there, here = SliceStore(store).dataset(), packing.PackedSlices.load(packed)
    assert len(there) == len(here)
    assert here.place.tolist() == [r.place for r in there.rows]
    a, b = there.batch([0, 2]), here.batch([0, 2])
    assert torch.equal(a["brain"], b["brain"])
    for k, m in enumerate(there.recipe["modalities"]):
        assert b[m].dtype == torch.float32
        assert (b[m][~b["brain"]] == -1).all()
        low, high = here.recipe["ends"][k]
        x, y = a[m][a["brain"]].clamp(low, high), b[m][a["brain"]]
        assert (x - y).abs().max() <= 0.51 * (high - low) / 255 + 2**-10 * y.abs().max()  # eight bits, then float16
    one = here.of_heads([1])
    assert one.head.unique().tolist() == [1]
    assert 0 < len(one) < len(here)


def test_the_benchmark_takes_packed_slices_where_there_is_no_phantom(packed):
    inference, few = importlib.import_module("inference"), packing.PackedSlices.load(packed)
    config = SimpleNamespace(input="t2", size=32, normalisation="robust")
    x, brain = inference.some_slices(len(few) + 2, config, packed)
    assert x.shape == brain.shape == (len(few) + 2, 1, 32, 32)
    assert brain.dtype == bool
    np.testing.assert_array_equal(x[-1], x[1])  # from the beginning again
    assert np.abs(x[brain]).mean() > 0.1


def arguments(packed, tmp_path, *more):
    words = ["train", "masked", "--data", str(packed), "--batch-size", "2", "--val", "1", "--device", "cpu"]
    return [*words, "--work", str(tmp_path), "--out", str(tmp_path / "out"), "--seconds", "1", *more]


@pytest.fixture
def clock(monkeypatch):
    "A third of a second passes whenever it is read; a step is trained for each."
    ticks = itertools.count(0, 0.34)
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr(MaskedUNet, "validation_scores", lambda *given: {"imagination_r2": 0.5})


@pytest.mark.usefixtures("clock")
def test_a_stopped_stage_goes_on_and_a_finished_one_is_kept(packed, tmp_path, monkeypatch):
    steps, whole = [], gpu.train_step

    def counted(stage, data, done):
        steps.append(stage.step)
        if len(steps) == 3:
            stage.save(tmp_path / "masked-s0.checkpoint")
            raise KeyboardInterrupt
        return whole(stage, data, done)

    monkeypatch.setattr(gpu, "train_step", counted)
    with pytest.raises(KeyboardInterrupt):
        gpu.main(arguments(packed, tmp_path))
    assert gpu.main(arguments(packed, tmp_path)) == 0
    assert steps[:4] == [0, 1, 2, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["masked-s0.safetensors", "out"]
    log = json.loads((tmp_path / "out" / "log.json").read_text())["masked-s0"]["log"]
    assert [row["step"] for row in log] == [1, 2, 3]
    assert {"val_loss", "loss", "seconds"} <= set(log[-1])
    assert log[-1]["imagination_r2"] == 0.5
    done = len(steps)
    assert gpu.main(arguments(packed, tmp_path)) == 0
    assert len(steps) == done
    (folder,) = gpu.unpack(tmp_path / "out", tmp_path / "runs")
    about, tensors = gpu.read_stage(tmp_path / "masked-s0.safetensors")
    ours = dict(load_detector(folder).named_parameters())
    assert tensors
    assert all(torch.equal(ours[k], v.float()) for k, v in tensors.items())
    assert not any(k.startswith("g.") for k in tensors)  # the decoder is the packaged one
    back, packaged = load_detector(folder).g.state_dict(), load_detector("cycle-flair-t2").translator.state_dict()
    assert all(torch.equal(back[k], v) for k, v in packaged.items())
    with pytest.raises(ValueError, match=r"weights\.yaml has changed since it was trained"):
        gpu.rebuild(about, {k: v for k, v in tensors.items() if "first" not in k})


def test_the_average_is_that_of_the_training_loop(packed):
    detector, config = gpu.build("masked", 0, packing.PackedSlices.load(packed).recipe)
    stage = gpu.Stage(detector, config, torch.Generator())
    wanted = next(stage.average.f.parameters()).detach().clone()
    for n in range(1, 4):
        stage.step = n
        for p in detector.parameters():
            p.data += torch.randn(p.shape, generator=torch.Generator().manual_seed(n))
        stage.update_average()
        wanted = ema_average(wanted, next(detector.f.parameters()).detach(), n, config.ema)
    torch.testing.assert_close(next(stage.average.f.parameters()).detach(), wanted)


def test_results_come_back_in_files_below_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LARGEST", 100)
    for k in range(3):
        gpu.save_file(
            {"a": torch.full((15,), float(k))}, tmp_path / f"m-s{k}.safetensors", {"about": json.dumps({"seed": k})}
        )
    gpu.save_file({"a": torch.zeros(2)}, tmp_path / "n-s0.safetensors", {"about": "{}"})
    gpu.gather(tmp_path, tmp_path / "out")
    parts = [gpu.read_stage(p) for p in sorted((tmp_path / "out").glob("part-*"))]
    assert [list(about) for about, _ in parts] == [["m-s0"], ["m-s1"], ["m-s2", "n-s0"]]
    found = {k: v for _, tensors in parts for k, v in tensors.items()}
    assert {k: v[0].item() for k, v in found.items()} == {"m-s0/a": 0, "m-s1/a": 1, "m-s2/a": 2, "n-s0/a": 0}


def run_script(packed, tmp_path, *stages):
    "The script on a machine with PyTorch, but none of the packages that read scans, and nothing to be fetched."
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(f"LACKING = {LACKING}\n{NOT_INSTALLED}")
    env = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "site"), "DATA": str(packed)}
    env |= {"WORK": str(tmp_path / "work"), "OUT": str(tmp_path / "out"), "CUDA_VISIBLE_DEVICES": "", "EACH": "1"}
    script = ["bash", str(ROOT / "experiments" / "gpu_run.sh"), "--smoke", *stages]
    return subprocess.run(script, env=env, capture_output=True, text=True)


def test_a_method_and_a_benchmark_run_without_what_such_a_machine_lacks(packed, tmp_path):
    done = run_script(packed, tmp_path, "mmccd", "nothing", "training")
    assert done.returncode == 0, done.stderr
    assert "nothing: not in weights.yaml, left out" in done.stdout
    about, tensors = gpu.read_stage(tmp_path / "out" / "part-0.safetensors")
    assert list(about) == ["mmccd-s0"]
    bench = json.loads((tmp_path / "out" / "bench_training.json").read_text())
    assert bench["device"].startswith("cpu")
    assert bench["rows"][0]["ms"].keys() == {"published", "ours"}
    assert all(np.isfinite(v.float().numpy()).all() for v in tensors.values())
    assert run_script(packed, tmp_path, "mmccd", "nothing", "training").returncode == 0  # nothing is left to do


def test_the_explorers_networks_run_without_what_such_a_machine_lacks(packed, tmp_path):
    done = run_script(packed, tmp_path, "explorer")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "bench_explorer_engine.json").read_text())
    assert len(found["strip"]["runs"]) == 2
    assert min(found["strip"]["runs"]) > 0
    assert found["strip"]["evaluations"] == [9]  # the networks ran, each time
    assert found["goal"]["met"] is None  # not on a CPU


def test_the_tests_of_a_gpu_run_without_what_such_a_machine_lacks(packed, tmp_path):
    done = run_script(packed, tmp_path, "cuda-tests")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 passed, 1 skipped")  # a training, which draws


@pytest.mark.slow
def test_every_stage_runs_without_what_such_a_machine_lacks(packed, tmp_path, monkeypatch):
    "Inference with a small network: its published loop takes a CPU minutes with a packaged one."
    small = MMCCD(size=64, modalities=("flair", "t1", "t2"), unet=dict(channels=4, mults=(1,), blocks=1, attention=()))
    monkeypatch.setenv("WEIGHTS", str(small.for_pair("flair", "t2").save_pretrained(tmp_path / "small")))
    stages = ("masked", "mmccd", "itermask", "training", "inference", "explorer", "cuda-tests")
    done = run_script(packed, tmp_path, *stages)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"bench_training.json", "bench_inference.json", "bench_explorer_engine.json", "cuda_tests.txt"} < names
    assert {key.split("-")[0] for p in (tmp_path / "out").glob("part-*") for key in gpu.read_stage(p)[0]} == {
        "masked",
        "mmccd",
        "itermask",
    }
