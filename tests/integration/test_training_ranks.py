"Several processes train as one would: the same slices, the same curve, and on again after one of them was killed."

import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_ranks import CONFIG
from toy_training import Toy, detector, log

from mmccd.training.checkpoint import checkpoints
from mmccd.training.ranks import find_environment
from mmccd.training.run import train

TESTS = Path(__file__).resolve().parents[1]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(out, *words, processes=2, variables=None):
    "Train in `out` by several processes, as torchrun or, with `variables`, somebody else starts them."
    env = os.environ | {"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    script = [str(TESTS / "toy_ranks.py"), str(out), *map(str, words)]
    port = str(free_port())
    if variables is None:
        torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
        return subprocess.run(
            [sys.executable, *torchrun, *script], env=env, capture_output=True, text=True, timeout=300
        )
    started = [
        subprocess.Popen([sys.executable, *script], env=env | variables(rank) | {"MASTER_PORT": port}, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(processes)
    ]  # fmt: skip
    said = [p.communicate(timeout=300)[0] for p in started]
    return subprocess.CompletedProcess("srun", max(p.returncode for p in started), "\n".join(said), "")


def same_curve(a, b):
    "Are two logs the same but for rounding?"
    for x, y in zip(log(a), log(b), strict=True):
        assert x.keys() == y.keys()
        for name in x:
            if x[name]:
                assert float(x[name]) == pytest.approx(float(y[name]), rel=2e-4, abs=1e-6), (name, x, y)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "One process that does what two share: the whole batch, in two pieces."
    out = tmp_path_factory.mktemp("alone") / "run"
    train(detector(), Toy(), Toy(8, seed=1), out, replace(CONFIG, accumulate=2), device="cpu", progress=False)
    return out


def test_two_processes_are_one_with_the_doubled_batch(alone, tmp_path):
    done = launch(out := tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    same_curve(out, alone)
    ours, theirs = (load_file(p / "model.safetensors") for p in (out, alone))
    assert all(torch.allclose(ours[k], theirs[k], rtol=1e-3, atol=1e-5) for k in theirs)
    assert not list(out.rglob("*.part"))
    read = [(tmp_path / f"run-read-{rank}.txt").read_text().splitlines() for rank in (0, 1)]
    steps_per_epoch = len(Toy()) // CONFIG.batch_size
    for epoch in range(CONFIG.steps // steps_per_epoch):
        lines = slice(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        seen = [int(i) for lines_of in read for line in lines_of[lines] for i in line.split()]
        assert sorted(seen) == list(range(len(Toy())))  # each slice once, by one of the two


@pytest.mark.slow
def test_goes_on_after_one_was_killed(alone, tmp_path):
    out = tmp_path / "run"
    killed = launch(out, 6)
    assert killed.returncode != 0
    assert checkpoints(out)
    assert not (out / "curve.png").exists()
    done = launch(out)
    assert done.returncode == 0, done.stderr[-3000:]
    same_curve(out, alone)


@pytest.mark.slow
def test_a_polite_stop_of_one_stops_all_with_a_checkpoint(alone, tmp_path):
    stopped = launch(out := tmp_path / "run", 6, "SIGTERM")
    assert stopped.returncode != 0
    said = re.findall(r"^stopped at step (\d+) of 12; go on with --resume", stopped.stderr, re.M)
    assert len(set(said)) == 1  # both after the same step, if torchrun lets the other one say so before it ends it
    assert [p.name for p in checkpoints(out)] == [f"step-{int(said[0]):07d}.ckpt"]
    done = launch(out, 0, "SIGTERM")
    assert done.returncode == 0, done.stderr[-3000:]
    same_curve(out, alone)


@pytest.mark.slow
def test_under_slurm(alone, tmp_path):
    def variables(rank):
        slurm = {
            "NTASKS": 2,
            "PROCID": rank,
            "LOCALID": rank,
            "NODEID": 0,
            "NNODES": 1,
            "STEP_ID": 0,
            "NTASKS_PER_NODE": 2,
            "JOB_ID": 4711,
        }
        named = {f"SLURM_{k}": str(v) for k, v in slurm.items()} | {
            "SLURM_JOB_NAME": "mmccd",
            "MASTER_ADDR": "127.0.0.1",
        }
        return named | {"RANK": str(rank)}

    done = launch(out := tmp_path / "run", variables=variables)
    assert done.returncode == 0, done.stdout[-3000:]
    same_curve(out, alone)


@pytest.mark.slow
def test_batch_that_cannot_be_shared(tmp_path):
    done = launch(tmp_path / "run", processes=3)
    assert done.returncode
    assert "a batch of 8 slices cannot be shared by 3 equal pieces" in done.stderr
    assert not (tmp_path / "run").exists()


def test_slurm_must_say_how_many_a_machine_has(monkeypatch):
    for name, value in {"NTASKS": "2", "PROCID": "0", "STEP_ID": "0", "JOB_NAME": "mmccd"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ValueError, match="ask for --nodes and --ntasks-per-node"):
        find_environment()


@pytest.mark.parametrize("variables", [{}, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}])
def test_batch_script_without_srun_is_alone(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert find_environment() is None
