"""Training: what is learned is a function of configuration, data and seed, however often the run is interrupted."""

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detector_laws import check_detector, toy_slices

from mmccd import files, registry, training, training_loop
from mmccd.cases.phantoms import Phantoms, write_phantom
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli.app import main
from mmccd.detector import Detector, Threshold
from mmccd.phantom import make_phantom
from mmccd.registry import new_detector
from mmccd.runtime import derive_seed, single_thread
from mmccd.training import log, progress, record, run
from mmccd.training.checkpoint import ChecksummedCheckpointIO, checkpoints, newest_good
from mmccd.training.data import store_data
from mmccd.training.run import train
from mmccd.training_loop import (
    PRESETS,
    Batches,
    ToyCycle,
    TrainConfig,
    batch_indices,
    ema_average,
    lr_factor,
    make_config,
    masked_mean,
    validate,
)

TIMES = ("seconds",)
QUICK = TrainConfig(steps=12, batch_size=8, warmup=3, log_every=3, checkpoint_every=4, validate_every=6, val_slices=8)
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "CUDA_VISIBLE_DEVICES": "",
    "MPLBACKEND": "Agg",
}


@pytest.fixture(autouse=True)
def single_thread():
    with single_thread():
        yield


class Toy:
    "Slices in memory: T2 is a function of FLAIR."

    def __init__(self, n=24, size=32, seed=0):
        x, brain = toy_slices(n, size, size, seed)
        self.d = {
            "flair": x,
            "t2": torch.where(brain, torch.sin(2 * x), -1.0),
            "brain": brain,
            "lesion": brain & (x > 0.9),
        }

    def __len__(self):
        return len(self.d["brain"])

    def batch(self, indices):
        return {k: v[indices] for k, v in self.d.items()}


class Calls(Toy):
    "Does something when the batch of a certain step is asked for (of the training: one slice is a check, all of them the record of the data)."

    at, seen = {}, 0

    def batch(self, indices):
        if 1 < len(indices) < len(self):
            self.seen += 1
            self.at.get(self.seen, lambda: None)()
        return super().batch(indices)


class Noisy(ToyCycle):
    "Draws from the generator and from PyTorch's own random state."

    def loss(self, batch, generator=None):
        x = torch.nn.functional.dropout(batch["flair"], 0.2, self.training)
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return super().loss(batch | {"flair": x + 0.1 * noise})


def detector(cls=Noisy, seed=0, **config):
    torch.manual_seed(seed)
    return cls(size=32, width=4, kernel=3, **config)


def fit(out, config=QUICK, data=None, val=None, cls=Noisy, **kwargs):
    return train(
        detector(cls), data or Toy(), val or Toy(8, seed=1), out, config, progress=False, device="cpu", **kwargs
    )


def log(out):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(open(Path(out) / "log.csv"))]


def weights(out):
    return (Path(out) / "model.safetensors").read_bytes()


def everything(out):
    return weights(out), (Path(out) / "config.json").read_text(), log(out), [p.name for p in checkpoints(Path(out))]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "An undisturbed run."
    out = tmp_path_factory.mktemp("plain") / "run"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    record = fit(out)
    torch.set_num_threads(threads)
    return out, record


# ------------------------------------------------------------------------------------------------- pieces
def test_background_changes_neither_loss_nor_gradient():
    d, batch = detector(ToyCycle), Toy(4).batch([0, 1, 2, 3])
    other = {
        k: torch.where(batch["brain"], v, 7 * torch.randn_like(v)) if v.is_floating_point() else v
        for k, v in batch.items()
    }
    found = []
    for b in (batch, other):
        d.zero_grad()
        loss = d.loss(b)
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in d.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))


def test_mean_inside():
    brain = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    brain[0, :, :2], brain[1, :, :1] = True, True
    error = torch.where(brain, torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), 1e9)
    assert masked_mean(error, brain) == 2  # slices count alike, whatever the size of the brain
    assert masked_mean(error, brain & False) == 0
    assert masked_mean(error.expand(2, 3, 4, 4), brain) == 2


def test_order_is_a_function_of_seed_and_step():
    c = TrainConfig(batch_size=4, seed=3)
    order = [i for step in range(15) for i in batch_indices(10, c, step)]
    for epoch in range(6):
        assert sorted(order[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert order[:10] != order[10:20]
    assert batch_indices(10, c, 7) == order[28:32]
    assert batch_indices(10, replace(c, seed=4), 7) != order[28:32]
    late = list(Batches(Toy(10), replace(c, steps=9, accumulate=2), 7))
    assert [(s, p) for s, p, _ in late] == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert all("lesion" not in b and len(b["brain"]) == 2 for _, _, b in late)


def test_seed_of():
    seeds = {derive_seed(a, w, s) for a in range(5) for w in ("step", "order") for s in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, "step", 2) == 2738419977555684275  # never changes, or old runs could not be repeated


def test_learning_rate():
    c = TrainConfig(steps=100, warmup=10)
    f = [lr_factor(s, c) for s in range(100)]
    assert f[0] > 0
    assert f == sorted(f[:11]) + sorted(f[11:], reverse=True)
    assert max(f) == f[10] == 1
    assert f[-1] < 1e-3
    assert lr_factor(0, TrainConfig(steps=1, warmup=0)) == 1
    assert lr_factor(5, TrainConfig(steps=3, warmup=9)) < 1


def test_ema():
    a, b = torch.zeros(3), torch.ones(3)
    assert torch.equal(ema_average(a, b, 5, 0.0), b)
    torch.testing.assert_close(ema_average(a, b, 10**6, 0.9), torch.full((3,), 0.1))
    assert ema_average(a, b, 1, 0.999)[0] > 0.8  # a young average forgets fast


def test_fit_is_the_bare_loop(tmp_path):
    "Lightning adds nothing: ten lines of PyTorch end in the same weights and the same average, bit for bit."
    c, data = replace(QUICK, precision="32"), Toy()
    fit(tmp_path / "run", c, data)
    d = detector()
    average = {k: v.clone() for k, v in d.state_dict().items()}
    optimizer = torch.optim.AdamW(d.parameters(), lr=c.lr, weight_decay=c.weight_decay)
    for step, piece, batch in Batches(data, c):
        optimizer.param_groups[0]["lr"] = c.lr * lr_factor(step, c)
        torch.manual_seed(seed := derive_seed(c.seed, "step", step, piece))
        optimizer.zero_grad()
        d.loss(batch, torch.Generator().manual_seed(seed)).backward()
        torch.nn.utils.clip_grad_norm_(d.parameters(), c.clip)
        optimizer.step()
        average = {
            k: v.detach().clone() if not step else ema_average(average[k], v.detach(), step, c.ema)
            for k, v in d.state_dict().items()
        }
    kept = Detector.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(kept[k], average[k]) for k in kept)
    state = ChecksummedCheckpointIO().load_checkpoint(checkpoints(tmp_path / "run")[-1])["state_dict"]
    assert all(torch.equal(state["detector." + k], v) for k, v in d.state_dict().items())


def test_accumulation_is_the_same_batch():
    d, data = detector(ToyCycle), Toy()

    def gradient(k):
        d.zero_grad()
        for _, _, batch in Batches(data, TrainConfig(steps=1, batch_size=12, accumulate=k)):
            (d.loss(batch) / k).backward()
        return torch.cat([p.grad.flatten() for p in d.parameters()])

    for k in (2, 3, 12):
        torch.testing.assert_close(gradient(k), gradient(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(steps=0), "steps must be at least 1"),
        (dict(lr=-1.0), "lr must be a positive"),
        (dict(lr=float("nan")), "lr must be"),
        (dict(ema=1.0), "ema must lie below 1"),
        (dict(precision="8"), "32, bf16, fp16"),
        (dict(batch_size=6, accumulate=4), "4 equal pieces"),
        (dict(warmup=-1), "warmup"),
        (dict(clip=0.0), "clip"),
        (dict(fpr=1.5), "fpr must lie between 0 and 1, got 1.5"),
        (dict(fpr=0.0), "fpr must lie between 0 and 1, got 0.0"),
        (dict(steps=2.5), "steps must be a whole number, got 2.5"),
        (dict(batch_size=8.0), "batch_size must be a whole"),
        (dict(warmup=1.5), "warmup must be a whole"),
        (dict(seed=0.5), "seed must be a whole"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


# ------------------------------------------------------------------------------------------------- a run
def test_run_folder(plain):
    out, record = plain
    assert {p.name for p in out.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "train.json",
        "log.csv",
        "curve.png",
        "samples",
        "README.md",
        "checkpoints",
    }
    assert [p.name for p in checkpoints(out)] == ["step-0000008.ckpt", "step-0000012.ckpt"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == [f"step-{s:07d}.png" for s in (0, 6, 12)]
    assert not list(out.rglob("*.part"))
    assert json.loads((out / "train.json").read_text()) == record
    assert record["status"] == "done"
    text = (out / "README.md").read_text()
    for words in (
        "not a medical device",
        "Lesion labels served only to leave out slices that show lesion; no network saw one.",
        "24 slices",
        "8 slices",
        "12 steps of 8",
        "96 samples",
        "seed 0",
        "4.0 passes",
    ):
        assert words in text, words


def test_log(plain):
    rows = log(plain[0])
    assert [int(r["step"]) for r in rows] == [0, 3, 6, 9, 12]
    assert [r["step"] for r in rows if r["val_loss"]] == [
        "0",
        "6",
        "12",
    ]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    assert rows[-1]["samples"] == "96"
    assert all(float(r["grad_norm"]) > 0 and float(r["loss"]) > 0 for r in rows[1:])
    assert float(rows[1]["lr"]) == QUICK.lr * lr_factor(2, QUICK)


def test_result_is_a_detector(plain, tmp_path):
    d = Detector.from_pretrained(plain[0])
    assert type(d) is Noisy
    assert d.calibration["slices"] == 8
    assert d.calibration["data"] == "8 slices"
    assert d.calibration["step"] == 12
    assert d.calibration["fpr_reached"] <= 0.01
    assert d.threshold == plain[1]["result"]["threshold"]
    check_detector(d, tmp_path)


def test_what_is_given_stays_as_it_is(tmp_path):
    d = detector()
    before, state = {k: v.clone() for k, v in d.state_dict().items()}, torch.random.get_rng_state()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(d, Toy(), Toy(8, seed=1), tmp_path / "run", QUICK, progress=False, device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    assert d.calibration is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


def test_same_seed_same_run_other_seed_other_run(plain, tmp_path):
    fit(tmp_path / "again")
    assert everything(tmp_path / "again") == everything(plain[0])
    fit(tmp_path / "other", replace(QUICK, seed=1))
    assert weights(tmp_path / "other") != weights(plain[0])


def test_validation_disturbs_nothing(plain, tmp_path):
    fit(tmp_path / "often", replace(QUICK, validate_every=1), val=Toy(20, seed=5))
    fit(tmp_path / "seldom", replace(QUICK, validate_every=100, log_every=1, checkpoint_every=1))
    assert weights(tmp_path / "often") == weights(tmp_path / "seldom") == weights(plain[0])


def test_validation_is_always_the_same():
    d, val = detector(), Toy(8, seed=1)
    torch.manual_seed(5)
    found = [validate(d, val, replace(QUICK, batch_size=b)) for b in (8, 8)]
    assert found[0] == found[1]
    assert d.training
    quiet = [validate(detector(ToyCycle), val, replace(QUICK, batch_size=b))["val_loss"] for b in (8, 3)]
    assert abs(quiet[0] - quiet[1]) < 1e-6  # each slice counts alike in whatever company


def test_lesion_labels_change_nothing(plain, tmp_path):
    data, val = Toy(), Toy(8, seed=1)
    for d in (data, val):
        d.d["lesion"] = ~d.d["lesion"]
    fit(tmp_path / "flipped", data=data, val=val)
    for d in (data, val):
        del d.d["lesion"]
    fit(tmp_path / "none", data=data, val=val)
    assert everything(tmp_path / "flipped") == everything(tmp_path / "none") == everything(plain[0])


def test_progress_on_no_terminal(tmp_path, capsys):
    train(detector(), Toy(), Toy(8, seed=1), tmp_path / "run", replace(QUICK, steps=20), device="cpu")
    out, err = capsys.readouterr()
    assert not out
    assert "10 steps to go will take about" in err
    assert "step 20 of 20: loss" in err
    assert len(err.splitlines()) <= 12
    assert "\r" not in err
    assert "Lightning" not in err
    assert "GPU" not in err


def test_progress_on_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    train(detector(), Toy(), Toy(8, seed=1), tmp_path / "run", replace(QUICK, steps=20), device="cpu")
    out, err = capsys.readouterr()
    assert not out
    assert "train: 100%" in err
    assert "20/20" in err
    assert "10 steps to go" in err


# ------------------------------------------------------------------------------------------------- interrupted
@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        (dict(), (2, 5, 1, 3)),
        (dict(accumulate=2), (4, 7)),
        (dict(precision="bf16"), (6,)),
        (dict(batch_size=12, accumulate=3, checkpoint_every=1), (4, 9)),
    ],
)
def test_stopped_politely_and_resumed(tmp_path, changes, stops):
    config = replace(QUICK, **changes)
    fit(tmp_path / "plain", config)
    for stop in stops:
        data = Calls()
        data.at = {stop: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(KeyboardInterrupt, match=r"stopped at (step \d+ of 12|once); go on with --resume"):
            fit(tmp_path / "run", config, data, resume=True)
    fit(tmp_path / "run", config, resume=True)
    assert everything(tmp_path / "run") == everything(tmp_path / "plain")


def test_stopped_after_it_was_decided_to_go_on(plain, tmp_path, monkeypatch):
    "A signal that comes too late for the checkpoint of this step gets one after the next."
    real = progress.Progress.step

    def late(self, step, *args):
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self, step, *args)

    monkeypatch.setattr(progress.Progress, "step", late)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12"):
        fit(tmp_path / "run")
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt", "step-0000007.ckpt"]
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_number_of_threads_changes_nothing(plain, tmp_path):
    data, seen = Calls(), []
    data.at = {5: lambda: seen.append(torch.get_num_threads())}
    torch.set_num_threads(2)
    fit(tmp_path / "run", data=data)
    assert torch.get_num_threads() == 2
    assert seen == [1]
    assert everything(tmp_path / "run") == everything(plain[0])


def test_second_signal_stops_at_once(plain, tmp_path):
    data = Calls()
    data.at = {6: lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]}
    with pytest.raises(KeyboardInterrupt, match="at once"):
        fit(tmp_path / "run", data=data)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt"]
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_not_in_the_main_thread(plain, tmp_path):
    thread = threading.Thread(target=lambda: [torch.set_num_threads(1), fit(tmp_path / "run")])
    thread.start()
    thread.join()
    assert everything(tmp_path / "run") == everything(plain[0])


def test_killed_between_the_last_checkpoint_and_the_end(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "finish", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    assert fit(tmp_path / "run", resume=True)["result"]["step"] == 12
    assert everything(tmp_path / "run") == everything(plain[0])


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_done_but_the_result_is_lost(plain, tmp_path, lost, from_checkpoint):
    "A run without its weights is not done: the last checkpoint has them, and without one it is trained again."
    out = tmp_path / "run"
    shutil.copytree(plain[0], out)
    (out / lost).unlink()
    if not from_checkpoint:
        for path in checkpoints(out):
            path.unlink()
        data = Calls()
        data.at = {8: lambda: os.kill(os.getpid(), signal.SIGTERM)}
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            fit(out, data=data, resume=True)
        assert json.loads((out / "train.json").read_text())["status"] == "not done"
    assert fit(out, resume=True)["status"] == "done"
    assert everything(out)[:3] == everything(plain[0])[:3]
    assert Detector.from_pretrained(out).threshold == plain[1]["result"]["threshold"]


def test_done_already(plain, capsys):
    before = everything(plain[0])
    assert fit(plain[0], resume=True) == plain[1]
    assert "is done already" in capsys.readouterr().err
    assert everything(plain[0]) == before


LEARN = "the slices to learn from are others: the store has changed since, or --val, --seed or the lists are others"


def changed_inside():
    data = Toy()
    data.d["t2"][11, 0, 16, 16] += 1  # one pixel of a slice in the middle
    return data


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (dict(config=replace(QUICK, lr=0.5)), "--lr was 0.001 and is 0.5 now"),
        (
            dict(config=replace(QUICK, steps=99)),
            "--steps was 12 and is 99 now, and a run cannot be lengthened, because its learning rate depends on its length; give",
        ),
        (dict(config=replace(QUICK, warmup=1)), r"warmup \(of --preset\) was 3"),
        (dict(config=replace(QUICK, batch_size=4)), "--batch-size was 8 and is 4"),
        (dict(config=replace(QUICK, seed=5)), "--seed was 0 and is 5"),
        (dict(data=Toy(25)), LEARN),
        (dict(data=Toy(24, seed=7)), LEARN),
        (dict(data=changed_inside()), LEARN),
        (dict(val=Toy(8, seed=9)), LEARN.replace("learn from", "validate on")),
        (dict(cls=ToyCycle), "detector was Noisy and is ToyCycle"),
    ],
)
def test_resume_with_something_else(plain, what, words):
    before = everything(plain[0])
    with pytest.raises(ValueError, match="Cannot go on with the training in .*" + words):
        fit(plain[0], resume=True, **what)
    assert everything(plain[0]) == before


def test_differences_in_words_of_the_user():
    assert record.for_user("config.target was t2 and is t1 now") == "--target was t2 and is t1 now"
    assert (
        record.for_user("config.modalities was [] and is ['flair', 't2'] now")
        == "--modalities was [] and is ['flair', 't2'] now"
    )
    assert record.for_user("training.validate_every was 200 and is 10 now") == "--validate-every was 200 and is 10 now"
    assert record.for_user("config.frozen_decoder was False and is True now") == "--decoder was not given and is given now"
    assert record.for_user("detector was ToyCycle and is Other now") == "detector was ToyCycle and is Other now"


def test_resume_with_other_first_weights(tmp_path, monkeypatch):
    "Killed before the first checkpoint, all that is left of the first weights is their fingerprint."
    monkeypatch.setattr(training, "run_fit", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run")
    assert not checkpoints(tmp_path / "run")
    with pytest.raises(
        ValueError, match="Cannot go on with the training in .*start was [0-9a-f]{16} and is [0-9a-f]{16} now"
    ):
        train(
            detector(seed=1), Toy(), Toy(8, seed=1), tmp_path / "run", QUICK, resume=True, device="cpu", progress=False
        )
    calibrated = detector()
    calibrated.calibration = {"threshold": 1.0}  # has no say
    with pytest.raises(ZeroDivisionError):
        train(calibrated, Toy(), Toy(8, seed=1), tmp_path / "run", QUICK, resume=True, device="cpu", progress=False)
    assert calibrated.calibration


def test_nothing_is_overwritten(plain, tmp_path):
    with pytest.raises(ValueError, match="already holds a training .done.: go on with it by --resume"):
        fit(plain[0])
    (tmp_path / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match="is not empty and holds no training"):
            fit(tmp_path, resume=resume)
    with pytest.raises(ValueError, match="a file is where a folder should be"):
        fit(tmp_path / "thesis.txt")
    (tmp_path / "empty").mkdir()
    fit(tmp_path / "empty", resume=True)  # nothing there: starts


def test_two_processes_in_one_folder(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="Another process is training in"):
            fit(tmp_path / "run")
    fit(tmp_path / "run")


# ------------------------------------------------------------------------------------------------- damage
def stopped_run(out, at=10):
    data = Calls()
    data.at = {at: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt):
        fit(out, data=data)
    return checkpoints(out)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:],
        lambda b: b + b"x",
    ],
)
def test_damaged_checkpoint(plain, tmp_path, capsys, damage):
    _old, new = stopped_run(tmp_path / "run")
    new.write_bytes(damage(new.read_bytes()))
    fit(tmp_path / "run", resume=True)
    err = capsys.readouterr().err
    assert err == f"mmccd: {new} is cut off or damaged; going on from the checkpoint before it.\n"
    assert everything(tmp_path / "run")[:3] == everything(plain[0])[:3]


def test_all_checkpoints_damaged(tmp_path):
    for path in stopped_run(tmp_path / "run"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="none of its checkpoints can be read; start again in another folder"):
        fit(tmp_path / "run", resume=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_unreadable_checkpoint(tmp_path, monkeypatch, number):
    "A file that cannot be read is not called damaged."
    _old, new = stopped_run(tmp_path / "run")
    real = Path.read_bytes

    def refuse(self):
        if self == new:
            raise OSError(number, os.strerror(number), str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        ValueError, match=f"Cannot read .*{new.name}: {os.strerror(number)}; put that right, or delete it to go on from"
    ):
        fit(tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", [b"", b'{"status": "not do', b"\xff\x00"])
def test_damaged_record(tmp_path, content):
    stopped_run(tmp_path / "run")
    (tmp_path / "run" / "train.json").write_bytes(content)
    before = sorted(p.name for p in (tmp_path / "run").rglob("*"))
    for resume in (True, False):
        with pytest.raises(
            ValueError,
            match="^Cannot go on in .*run: its train.json is damaged; start again in another folder, or delete this one$",
        ):
            fit(tmp_path / "run", resume=resume)
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize("content", ["[]", "{}", '{"status": "done"}', '[{"text": "data of somebody else"}]'])
def test_record_of_something_else(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match="is not empty and holds no training"):
        fit(tmp_path, resume=True)


def test_unreadable_record(tmp_path, monkeypatch):
    (tmp_path / "train.json").write_text("{}")

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match="Cannot read .*train.json: Permission denied"):
        fit(tmp_path, resume=True)


def test_killed_while_the_first_record_is_written(plain, tmp_path):
    "What such a kill leaves is no reason to refuse."
    (tmp_path / "run").mkdir()
    for name in (".lock", ".train.json.part", ".train.json.4711.part", ".DS_Store"):
        (tmp_path / "run" / name).write_text('{"stat')
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / "run" / ".DS_Store").exists()


def test_refused_folders_stay_as_they_are(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / ".download.part").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no training"):
        fit(tmp_path, resume=True)
    assert (tmp_path / ".download.part").exists()
    assert not (tmp_path / ".lock").exists()


def test_the_record_is_written_durably(tmp_path, monkeypatch):
    "The record is the way back into a run: it must be on the disk before the first checkpoint is."
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        training.os, "fsync", lambda fd: (synced.append((tmp_path / ".train.json.part").exists()), real(fd))
    )
    record.write_record(tmp_path, {"status": "not done"})
    assert synced == [True, False]
    assert json.loads((tmp_path / "train.json").read_text()) == {"status": "not done"}


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    old, new = stopped_run(tmp_path / "run")
    ChecksummedCheckpointIO().save_checkpoint({"state_dict": Evil()}, new)  # with a good checksum
    with pytest.raises(Exception, match="(?i)weights"):
        ChecksummedCheckpointIO().load_checkpoint(new)
    assert newest_good(tmp_path / "run", lambda text: None) == old
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_full_disk_while_a_checkpoint_is_written(plain, tmp_path, monkeypatch, number):
    real, calls = os.fsync, []

    def full(fd):
        calls.append(fd)
        if len(calls) == 5:
            raise OSError(number, os.strerror(number))  # the record is two, file and folder, and so is each checkpoint
        real(fd)

    monkeypatch.setattr(training.os, "fsync", full)
    with pytest.raises(
        ValueError, match=f"Cannot write into .*{os.strerror(number)}; put that right and go on with --resume"
    ):
        fit(tmp_path / "run")
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt"]
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


@pytest.mark.parametrize("name", ["log.csv", "model.safetensors", "config.json", "train.json", "README.md"])
def test_full_disk_anywhere(plain, tmp_path, monkeypatch, name):
    real, durably = Path.write_bytes, files.write_durably

    def full(self, content):
        if f".{name}." in self.name:
            real(self, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)

    def no_sync(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_too(path, content):
        if path.name == name:
            monkeypatch.setattr(training.os, "fsync", no_sync)
        durably(path, content)

    monkeypatch.setattr(training, "write_durably", full_too)
    with pytest.raises(ValueError, match="Cannot write into .*No space left on device"):
        fit(tmp_path / "run")
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


class Diverges(ToyCycle):
    def loss(self, batch, generator=None):
        return super().loss(batch) * (
            float("nan") if batch["flair"].shape[0] == 8 and self.training and self.bad() else 1
        )

    def bad(self):
        Diverges.n += 1
        return Diverges.n > 6


def test_nan(tmp_path):
    Diverges.n = 0
    with pytest.raises(
        ValueError,
        match="the loss is nan at step 6, so this training has diverged: start it again in another folder with a lower",
    ):
        fit(tmp_path / "run", cls=Diverges)
    kept = ChecksummedCheckpointIO().load_checkpoint(checkpoints(tmp_path / "run")[-1])
    assert kept["global_step"] == 4
    assert all(v.isfinite().all() for v in kept["state_dict"].values())


def test_infinite_gradient(tmp_path):
    class Steep(ToyCycle):
        def loss(self, batch, generator=None):
            return sum((p * 0).sum().abs().sqrt() for p in self.parameters()) + super().loss(batch)

    with pytest.raises(ValueError, match="the gradient is nan at step 0"):
        fit(tmp_path / "run", cls=Steep)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (dict(data=Toy(0)), "no healthy slice for training"),
        (dict(val=Toy(0)), "no healthy slice for validation"),
        (dict(config=replace(QUICK, precision="fp16")), "fp16 needs a CUDA GPU and this is cpu"),
    ],
)
def test_early_refusals(tmp_path, what, words):
    data = what.pop("data", None) if what.get("data") is None else what.pop("data")
    with pytest.raises(ValueError, match=words):
        train(
            detector(),
            Toy() if data is None else data,
            what.get("val", Toy(8)),
            tmp_path / "run",
            what.get("config", QUICK),
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


def test_more_refusals(tmp_path):
    with pytest.raises(ValueError, match="have no t1: choose among flair, t2"):
        train(detector(target="t1"), Toy(), Toy(8), tmp_path / "run", QUICK, device="cpu")
    with pytest.raises(ValueError, match="Threshold has nothing to train"):
        train(Threshold(), Toy(), Toy(8), tmp_path / "run", QUICK, device="cpu")
    with pytest.raises(ValueError, match="unknown method 'cicle': choose cycle, mmccd, masked, toy"):
        new_detector("cicle")
    with pytest.raises(ValueError, match="unknown preset 'huge': choose smoke, tiny, paper"):
        make_config("huge")
    assert not (tmp_path / "run").exists()
    assert make_config("paper", lr=None, steps=7) == replace(PRESETS["paper"], steps=7, warmup=0)


def test_detector_and_slices_fit(tmp_path):
    for recipe, words in (
        (dict(size=64), "has size 32 and the slices for training have 64"),
        (dict(normalisation="other"), "normalisation .* have other"),
    ):
        data = Toy()
        data.recipe = recipe
        with pytest.raises(ValueError, match=words):
            fit(tmp_path / "run", data=data)
    assert not (tmp_path / "run").exists()


Row = namedtuple("Row", "id place brain_cm2 lesion_cm2 index")


def of_subjects(data, *ids, lesion=0.0):
    "A data set that knows whose slices it holds, and what they show."
    data.ids, data.rows = (
        list(ids),
        [Row(ids[i % len(ids)], 74, 90.0, lesion if i == 5 else 0.0, i) for i in range(len(data))],
    )
    return data


@pytest.mark.parametrize(
    ("lesion", "say"),
    [(0.7, "shows lesion: train and validate on healthy slices only"), (None, "is not known to be healthy")],
)
@pytest.mark.parametrize("part", ["training", "validation"])
def test_lesions_are_refused(tmp_path, lesion, say, part):
    found = {
        "training": lambda k: of_subjects(Toy(), "a", "b", lesion=k),
        "validation": lambda k: of_subjects(Toy(8, seed=1), "c", lesion=k),
    }
    data, val = (make(lesion if name == part else 0.0) for name, make in found.items())
    with pytest.raises(ValueError, match=f"^a slice of [bc] for {part} .*{say}"):
        fit(tmp_path / "run", data=data, val=val)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("ids", "val_ids", "who"),
    [
        (["a", "b"], ["b"], "b"),
        (["p_ses-1", "q"], ["p_ses-2"], "p"),
        (["a"], ["a_healthy_twin"], "a"),
        (["BraTS-GLI-00005-000"], ["BraTS-GLI-00005-001"], "BraTS-GLI-00005"),
    ],
)
def test_shared_subjects_are_refused(tmp_path, ids, val_ids, who):
    with pytest.raises(
        ValueError, match=f"^{who} is among the subjects for training and for validation: split by subject"
    ):
        fit(tmp_path / "run", data=of_subjects(Toy(), *ids), val=of_subjects(Toy(8, seed=1), *val_ids))
    assert not (tmp_path / "run").exists()


def test_healthy_slices_of_two_subjects_are_taken(plain, tmp_path):
    fit(tmp_path / "run", data=of_subjects(Toy(), "p_ses-1", "p_ses-2"), val=of_subjects(Toy(8, seed=1), "q"))
    assert weights(tmp_path / "run") == weights(plain[0])


def test_a_short_run_is_not_all_warm_up():
    assert [make_config("tiny", steps=n).warmup for n in (5, 60, 1000, 2000, 5000)] == [0, 6, 100, 100, 100]
    assert make_config("tiny", steps=60, warmup=9).warmup == 9
    assert make_config("tiny", lr=0.1).warmup == 100
    for name, preset in PRESETS.items():
        assert make_config(name) == preset


def test_opening():
    few, many = (of_subjects(Toy(8, seed=1), *ids) for ids in (("c", "c_healthy_twin"), ("c", "d", "e")))
    lines = run.opening(of_subjects(Toy(), "a", "b"), few, QUICK, None, True)
    assert lines[0] == "learning from 24 healthy slices of 2 subjects, validating on 8 of 1 subject"
    assert "rests on 1 validation subject only" in lines[1]
    assert lines[2:] == ["no checkpoint yet, starting from the beginning"]
    assert len(run.opening(Toy(), many, QUICK, None, False)) == len(run.opening(Toy(), Toy(8), QUICK, None, False)) == 1
    assert run.opening(Toy(1), many, QUICK, Path("step-0000008.ckpt"), True) == [
        "learning from 1 healthy slice, validating on 8 of 3 subjects",
        "going on from step 8 of 12",
    ]


def test_published_numbers():
    c = PRESETS["paper"]
    assert (c.lr, c.batch_size, c.steps) == (1e-4, 32, 100_000)


# ------------------------------------------------------------------------------------------------- real processes
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("store") / "slices.zarr"
    prepare(
        Phantoms(healthy=4, glioma=1, seed=7),
        place,
        size=32,
        slices=range(74, 82),
        modalities=["flair", "t2"],
        progress=False,
    )
    return place


def command(store, out, *words, steps=160, before=""):
    "A process that runs `mmccd train`; `before` is Python that runs first."
    line = [
        "train",
        "toy",
        str(store),
        "--input",
        "flair",
        "--target",
        "t2",
        "--out",
        str(out),
        "--steps",
        str(steps),
        "--batch-size",
        "8",
        "--val",
        "0.25",
        "--checkpoint-every",
        "20",
        "--device",
        "cpu",
        *map(str, words),
    ]
    script = f"import sys\n{before}\nfrom mmccd.cli import main\nsys.exit(main({line}))"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
    )


def run(*args, **kwargs):
    process = command(*args, **kwargs)
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    code, text, err = run(store, out)
    assert code == 0 and "160 steps, validation loss" in text, err
    return out


def wait_for(condition, process, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.002)


SLOW_DISK = "import os, time\nreal = os.fsync\nos.fsync = lambda fd: (time.sleep(.4), real(fd))"


SLOW_STEPS = "import time, mmccd.training as t\nwas = t.Progress.step\nt.Progress.step = lambda *a: (time.sleep(.06), was(*a))[1]\n"  # else a fast machine is done before it is killed


def test_killed_at_random_moments(store, undisturbed, tmp_path):
    "SIGKILL, again and again; once while a checkpoint is being written."
    out, rng = tmp_path / "run", random.Random(20)

    def newest():
        return ([""] + [p.name for p in checkpoints(out)])[-1]

    for kill in range(4):
        had, delay, writing = newest(), rng.uniform(0, 1), kill == 2
        process = command(store, out, "--resume", before=SLOW_STEPS + SLOW_DISK * writing)

        def part():
            return list(out.glob("checkpoints/.step-*.part"))

        wait_for({0: lambda: (out / "log.csv").exists(), 2: part}.get(kill, lambda: newest() > had), process)
        if not writing:
            time.sleep(delay)
        process.kill()
        process.wait()
        print(
            f"kill {kill}: {'while writing' if writing else f'{delay:.2f} s after a sign of life'}, newest checkpoint {newest() or 'none'}"
        )
        assert process.returncode == -signal.SIGKILL
        if writing:
            assert part()
            assert newest() == had
    code, _text, err = run(store, out, "--resume")
    assert code == 0, err
    assert everything(out) == everything(undisturbed)
    assert not list(out.rglob("*.part"))


def test_disk_full_in_a_real_process(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    code, text, err = run(
        store, out, before="import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))"
    )
    assert code == 2 and err.splitlines()[-1].startswith(
        f"mmccd: Cannot write into {out}: File too large; put that right and go on with --resume"
    ), err
    assert not list(out.rglob("*.part"))
    assert not checkpoints(out)
    assert "Traceback" not in err
    code, _text, err = run(store, out, "--resume")
    assert code == 0 and everything(out) == everything(undisturbed), err


def test_ctrl_c_in_a_real_process(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = command(store, out, before=SLOW_STEPS)
    wait_for(lambda: checkpoints(out), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate()
    assert (
        process.returncode == 130
        and not text
        and err.splitlines()[-1].startswith("mmccd: stopped at step ")
        and err.endswith("of 160; go on with --resume\n")
    ), err
    code, text, err = run(store, out, "--resume")
    assert code == 0 and everything(out) == everything(undisturbed), err


def test_two_threads_in_a_real_process(store, undisturbed, tmp_path):
    code, _text, err = run(
        store,
        tmp_path / "run",
        before="import os\nos.environ.update(dict.fromkeys(('OMP_NUM_THREADS', 'MKL_NUM_THREADS'), '2'))",
    )
    assert code == 0 and everything(tmp_path / "run") == everything(undisturbed), err
    assert "learning from " in err
    assert " healthy slices of " in err
    assert "the threshold rests on 1 validation subject only" in err


def test_what_was_trained_can_be_used(undisturbed, tmp_path, capsys):
    "The run folder of a command is what the next command loads."
    case = write_phantom(make_phantom("glioma", seed=3, index=0, slices=range(76, 80), twin=False), tmp_path / "cases")
    assert (
        main(["detect", str(case), "--weights", str(undisturbed), "--out", str(tmp_path / "out"), "--device", "cpu"])
        == 0
    ), capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "detect.json").read_text())["detector"] == "ToyCycle"
    assert len(list((tmp_path / "out").rglob("*_anomaly.nii.gz"))) == 1
    d = Detector.from_pretrained(undisturbed)
    assert (d.config.input, d.config.target, d.config.size) == ("flair", "t2", 32)
    assert "phantom" in d.calibration["data"]
    rows = log(undisturbed)
    assert float(rows[-1]["val_loss"]) < 0.8 * float(rows[0]["val_loss"])  # it has learned something
    record = json.loads((undisturbed / "train.json").read_text())["about"]
    assert not set(record["data"]["ids"]) & set(record["validation"]["ids"])


# ------------------------------------------------------------------------------------------------- words
def words(store, *more):
    return [
        "train",
        "toy",
        str(store),
        "--input",
        "flair",
        "--target",
        "t2",
        "--device",
        "cpu",
        "--preset",
        "smoke",
        *map(str, more),
    ]


@pytest.mark.parametrize(
    ("change", "say"),
    [
        ({1: "cicle"}, "unknown method 'cicle'"),
        ({2: "/no/such"}, "/no/such"),
        ({6: "flair"}, "input and target are both flair"),
        ({6: "t1"}, "no modality t1"),
        ({8: "gpu"}, "'gpu'"),
        ({10: "huge"}, "unknown preset"),
        (["--batch-size", "6", "--accumulate", "4"], "4 equal pieces"),
        (["--precision", "fp16"], "fp16 needs"),
        (["--train-list", "x"], "--val-list"),
        (["--train-list", "nofile", "--val-list", "nofile"], "nofile"),
        (["--lr", "0"], "lr"),
        (["--val", "2.5"], "2.5"),
        (["--val", "0"], "--val must leave at least one subject to validate on"),
        (["--steps", "0"], "steps"),
    ],
)
def test_wrong_words(store, tmp_path, capsys, change, say):
    line = words(store, *(change if isinstance(change, list) else []))
    for i, word in change.items() if isinstance(change, dict) else ():
        line[i] = word
    code = main(line + ["--out", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert (
        code == 2
        and not out
        and err.count("\n") == 1
        and err.startswith("mmccd: ")
        and say in err
        and "Traceback" not in err
    ), err
    assert not (tmp_path / "run").exists()


def test_one_subject_and_no_healthy_slice(tmp_path, capsys):
    one, ill = tmp_path / "one.zarr", tmp_path / "ill.zarr"
    prepare(Phantoms(healthy=1, seed=7), one, size=32, slices=range(78, 80), modalities=["flair", "t2"], progress=False)
    prepare(Phantoms(glioma=2, seed=3), ill, size=32, slices=range(78, 80), modalities=["flair", "t2"], progress=False)
    for place, say in ((one, "1 subject"), (ill, "show lesion")):
        assert main(words(place, "--out", tmp_path / "run")) == 2
        err = capsys.readouterr().err
        assert say in err and err.count("\n") == 1, err


def test_lists_and_json(store, tmp_path, capsys):
    ids = [i for i in SliceStore(store).ids if "healthy" in i]
    (tmp_path / "train.txt").write_bytes("\r\n".join(ids[:2]).encode())
    (tmp_path / "val.txt").write_text(ids[2])
    assert (
        main(
            words(
                store,
                "--steps",
                4,
                "--train-list",
                tmp_path / "train.txt",
                "--val-list",
                tmp_path / "val.txt",
                "--out",
                tmp_path / "run",
                "--json",
            )
        )
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert record["about"]["data"]["ids"] == ids[:2]
    assert record["about"]["validation"]["ids"] == [ids[2]]
    assert record["result"]["step"] == 4


def test_the_ill_are_not_drawn_for_validation(tmp_path):
    "Only subjects with a healthy slice are split, so that every seed gives something to validate on; lists may still ask for others."
    place = tmp_path / "slices.zarr"
    prepare(
        Phantoms(healthy=2, glioma=3, seed=3),
        place,
        size=32,
        slices=range(78, 80),
        modalities=["flair", "t2"],
        progress=False,
    )
    ill = {r.id for r in SliceStore(place).table} - {r.id for r in SliceStore(place).table if not r.lesion_cm2}
    assert ill
    for seed in range(8):
        data, val = store_data(place, "flair", "t2", 1, seed=seed)
        assert len(val.ids) == 1
        assert not ill & {*data.ids, *val.ids}
    (tmp_path / "ill.txt").write_text(min(ill))
    (tmp_path / "well.txt").write_text(data.ids[0])
    for lists, what in ((("ill", "well"), "training"), (("well", "ill"), "validation")):
        with pytest.raises(
            ValueError,
            match=f"^no subject for {what} has a healthy slice: choose a larger --val, another --seed, or other lists$",
        ):
            store_data(
                place, "flair", "t2", train_list=tmp_path / f"{lists[0]}.txt", val_list=tmp_path / f"{lists[1]}.txt"
            )


def test_only_healthy_slices(store):
    for data in store_data(store, "flair", "t2", 0.25):
        assert not any(b.any() for b in [data.batch(range(len(data)))["lesion"]])


# ------------------------------------------------------------------------------------------------- one modality only
BASELINES = {"ae": "AE", "ae-dense": "AE", "vae": "AE", "dae": "DAE", "ddpm": "DDPM", "ddpm-simplex": "DDPM"}


@pytest.mark.parametrize("method", BASELINES)
def test_without_a_target(store, tmp_path, method):
    "Two steps on a store, of which only the input is loaded."
    data, val = store_data(store, "flair", "", 0.25)
    assert set(data.batch([0])) - {"brain", "lesion"} == {"flair"}
    assert not set(data.ids) & set(val.ids)
    d = new_detector(method, 0, input="flair", target="t2", **{k: data.recipe[k] for k in ("size", "normalisation")})
    assert not hasattr(d.config, "target")
    assert (d.config.size, type(d).__name__) == (32, BASELINES[method])
    record = train(
        d, data, val, tmp_path / "run", make_config("smoke", steps=2, val_slices=2), progress=False, device="cpu"
    )
    again = Detector.from_pretrained(tmp_path / "run")
    assert record["about"]["detector"] == BASELINES[method]
    assert again.config == d.config
    assert again.threshold == record["result"]["threshold"]
    text = (tmp_path / "run/README.md").read_text()
    assert "not a medical device" in text
    assert "t2" not in text
    assert "None" not in text
    assert any(not torch.equal(v, d.state_dict()[k]) for k, v in again.state_dict().items())


def test_variants_differ_in_what_they_say_only():
    "A field that is asked for wins over the variant's own."
    plain = {m: new_detector(m, 3) for m in BASELINES}
    for m, fields in {m: registry.METHODS[m].config for m in BASELINES if registry.METHODS[m].config}.items():
        base = {"AE": "ae", "DDPM": "ddpm"}[BASELINES[m]]
        assert plain[m].config == replace(plain[base].config, **fields) != plain[base].config
    assert new_detector("vae", sigma=0.5, latent=7).config == replace(plain["vae"].config, sigma=0.5, latent=7)
    assert set(BASELINES) | {"cycle", "mmccd", "masked", "toy"} == set(registry.trainable_methods())


def test_more_modalities_than_the_input(store):
    data, _ = store_data(store, "flair", "", 0.25, modalities=["flair", "t2"])
    assert set(data.batch([0])) - {"brain", "lesion"} == {"flair", "t2"}


def test_sample_rows(monkeypatch):
    "What goes to a target shows it; what gives back shows that."
    rows = {}
    import mmccd.viz as viz

    monkeypatch.setattr(viz, "show_rows", lambda found, row_titles, **kw: rows.update({"titles": row_titles, **kw}))
    log.sample_figure(detector(ToyCycle), Toy(4))
    assert rows["titles"] == ["input flair", "target t2", "prediction", "map"]
    assert len(rows["vmax"]) == len(rows["cmap"]) == 4
    log.sample_figure(new_detector("ae", size=32), Toy(4))
    assert rows["titles"] == ["input flair", "given back", "map"]
    assert rows["vmax"] == [1.0, 1.0, 0.5]
    assert rows["cmap"] == ["gray", "gray", "inferno"]


# ------------------------------------------------------------------------------------------------- ends by a rule
EASY = replace(QUICK, steps=200, validate_every=5, patience=2, progress=0.6)  # nothing can fall that fast for long


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    "An undisturbed run that its rule ends."
    out = tmp_path_factory.mktemp("early") / "run"
    with single_thread():
        return out, fit(out, EASY)


def val_losses(out):
    return [float(r["val_loss"]) for r in log(out) if r["val_loss"]]


@pytest.mark.parametrize(
    ("losses", "patience", "progress", "ends"),
    [
        ([3, 2, 1], 1, 0.1, False),
        ([3, 2, 1.9], 1, 0.1, True),
        ([3, 2, 1.7], 1, 0.1, False),
        ([2, 1.9, 1.81], 2, 0.1, True),
        ([2, 1.9, 1.79], 2, 0.1, False),
        ([1, 5, 5], 2, 0, True),
        ([1, 5], 2, 0, False),
        ([1], 0, 0.5, False),
        ([1, 1, 1, 1], 0, 0.5, False),
        ([], 1, 0.5, False),
        ([2, 1, 1.5, 1.5, 0.5], 2, 0.1, False),
    ],
)
def test_converged(losses, patience, progress, ends):
    assert training_loop.converged(losses, TrainConfig(patience=patience, progress=progress)) is ends


def test_rule_ends_a_run(early):
    out, record = early
    last, losses = record["result"]["step"], val_losses(out)
    assert record["status"] == "done"
    assert last < EASY.steps
    assert last % EASY.validate_every == 0
    assert training_loop.converged(losses, EASY)
    assert not any(training_loop.converged(losses[:n], EASY) for n in range(len(losses)))
    assert (record["result"]["samples"], checkpoints(out)[-1].stem) == (8 * last, f"step-{last:07d}")
    assert f"{last} steps of 8" in (out / "README.md").read_text()
    assert f'"step": {last}' in (out / "train.json").read_text()
    assert Detector.from_pretrained(out).calibration["step"] == last


def test_level_rate(early):
    factors = [lr_factor(s, EASY) for s in range(EASY.steps)]
    assert factors[:3] == [0.25, 0.5, 0.75]
    assert set(factors[3:]) == {1.0}
    assert {float(r["lr"]) for r in log(early[0])[2:]} == {EASY.lr}


def test_patience_that_never_ends_walks_all_steps(tmp_path):
    "The bare rule changes nothing but the rate: with patience for more validations than there are, all steps are walked."
    level = replace(QUICK, patience=50)
    assert fit(tmp_path / "a", level)["result"]["step"] == QUICK.steps
    assert fit(tmp_path / "b", replace(level, progress=0.5))["result"]["step"] == QUICK.steps
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


def test_without_patience_progress_counts_for_nothing(plain, tmp_path):
    fit(tmp_path / "run", replace(QUICK, progress=0.9))
    assert everything(tmp_path / "run") == everything(plain[0])


def test_killed_between_the_last_checkpoint_and_the_end(early, tmp_path, monkeypatch):
    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as m:
        m.setattr(training, "finish", killed)
        with pytest.raises(RuntimeError, match="killed"):
            fit(tmp_path / "run", EASY)
    assert json.loads((tmp_path / "run/train.json").read_text())["status"] == "not done"
    assert fit(tmp_path / "run", EASY, resume=True)["result"]["step"] == early[1]["result"]["step"]
    assert everything(tmp_path / "run") == everything(early[0])


@pytest.mark.parametrize("stop", ["first", "last"])
def test_rule_holds_over_an_interruption(early, tmp_path, stop):
    "That of the last step included, whose batch was asked for before the one after it: the run is then done, not stopped."
    last = early[1]["result"]["step"]
    data = Calls()
    data.at = {last + 1 if stop == "last" else 3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    if stop == "last":
        fit(tmp_path / "run", EASY, data)
    else:
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            fit(tmp_path / "run", EASY, data)
        fit(tmp_path / "run", EASY, resume=True)
    assert everything(tmp_path / "run") == everything(early[0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(patience=-1), "patience must not be negative"),
        (dict(patience=1.5), "patience must be a whole number, got 1.5"),
        (dict(progress=1.0), r"progress must lie in \[0, 1\), got 1.0"),
        (dict(progress=-0.1), "progress must lie in"),
        (dict(progress=float("nan")), "progress must lie in"),
    ],
)
def test_bad_rules(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


def test_rule_cannot_change_on_the_way(early):
    with pytest.raises(ValueError, match="patience"):
        fit(early[0], replace(EASY, patience=3), resume=True)
