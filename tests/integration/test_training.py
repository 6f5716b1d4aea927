"""Training: what is learned is a function of configuration, data and seed, however often the run is interrupted."""

import errno
import json
import os
import shutil
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from detector_laws import check_detector
from toy_training import QUICK, Calls, Noisy, Toy, detector, everything, fit, log, weights

from mmccd.detector import Detector
from mmccd.runtime import derive_seed, single_thread
from mmccd.training import progress, run
from mmccd.training.checkpoint import ChecksummedCheckpointIO, checkpoints
from mmccd.training.run import train
from mmccd.training_loop import Batches, ToyCycle, converged, ema_average, lr_factor


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    "One thread, and no pictures, which take most of the time; that they change nothing else, the run `plain` shows."
    for name in ("training.callback.sample_figure", "training.callback.save_sample", "training.run.curve_figure"):
        monkeypatch.setattr(f"mmccd.{name}", lambda *_: None)
    monkeypatch.setattr("mmccd.viz.save_png", lambda *_: None)
    with single_thread():
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    "An undisturbed run."
    out = tmp_path_factory.mktemp("plain") / "run"
    with single_thread():
        return out, fit(out)


def interrupt(signal_number=signal.SIGTERM):
    os.kill(os.getpid(), signal_number)


def stopping_at(step):
    "Data that stop the run politely when the batch of this step is read."
    data = Calls()
    data.at = {step: interrupt}
    return data


# ------------------------------------------------------------------------------------------------- an undisturbed run
def test_fit_is_the_bare_loop(plain):
    "Lightning adds nothing: ten lines of PyTorch end in the same weights and the same average, bit for bit."
    c, d = QUICK, detector()
    average = {k: v.clone() for k, v in d.state_dict().items()}
    optimizer = torch.optim.AdamW(d.parameters(), lr=c.lr, weight_decay=c.weight_decay)
    with torch.random.fork_rng():
        for step, piece, batch in Batches(Toy(), c):
            optimizer.param_groups[0]["lr"] = c.lr * lr_factor(step, c)
            torch.manual_seed(seed := derive_seed(c.seed, "step", step, piece))
            optimizer.zero_grad()
            d.loss(batch, torch.Generator().manual_seed(seed)).backward()
            torch.nn.utils.clip_grad_norm_(d.parameters(), c.clip)
            optimizer.step()
            for k, v in d.state_dict().items():
                average[k] = ema_average(average[k], v, step, c.ema) if step else v.clone()
    kept = Detector.from_pretrained(plain[0]).state_dict()
    assert all(torch.equal(kept[k], average[k]) for k in kept)
    state = ChecksummedCheckpointIO().load_checkpoint(checkpoints(plain[0])[-1])["state_dict"]
    assert all(torch.equal(state["detector." + k], v) for k, v in d.state_dict().items())


def test_run_folder(plain):
    out, record = plain
    names = "config.json model.safetensors train.json log.csv curve.png samples README.md checkpoints"
    assert {p.name for p in out.iterdir()} >= set(names.split())
    assert [p.name for p in checkpoints(out)] == ["step-0000008.ckpt", "step-0000012.ckpt"]
    assert sorted(p.name for p in (out / "samples").iterdir()) == [f"step-{s:07d}.png" for s in (0, 6, 12)]
    assert not list(out.rglob("*.part"))
    assert json.loads((out / "train.json").read_text()) == record
    assert record["status"] == "done"


def test_card(plain):
    text = (plain[0] / "README.md").read_text()
    for words in (
        "Noisy, flair to t2",
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
    assert [r["step"] for r in rows if r["val_loss"]] == ["0", "6", "12"]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    assert rows[-1]["samples"] == "96"
    assert all(float(r["grad_norm"]) > 0 and float(r["loss"]) > 0 for r in rows[1:])
    assert float(rows[1]["lr"]) == QUICK.lr * lr_factor(2, QUICK)


def test_result_is_a_detector(plain, tmp_path):
    d = Detector.from_pretrained(plain[0])
    assert type(d) is Noisy
    assert (d.calibration["slices"], d.calibration["data"], d.calibration["step"]) == (8, "8 slices", 12)
    assert d.calibration["fpr_reached"] <= 0.01
    assert d.threshold == plain[1]["result"]["threshold"]
    check_detector(d, tmp_path)


def test_what_is_given_stays_as_it_is(plain, tmp_path):
    d = detector()
    before, state = {k: v.clone() for k, v in d.state_dict().items()}, torch.random.get_rng_state()
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(d, Toy(), Toy(8, seed=1), tmp_path / "run", QUICK, progress=False, device="cpu")
    assert all(torch.equal(v, before[k]) for k, v in d.state_dict().items())
    assert d.calibration is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert everything(tmp_path / "run") == everything(plain[0])  # the same seed, the same run


def test_other_seed_other_run(plain, tmp_path):
    fit(tmp_path / "other", replace(QUICK, seed=1))
    assert weights(tmp_path / "other") != weights(plain[0])


def test_validation_disturbs_nothing(plain, tmp_path):
    fit(tmp_path / "often", replace(QUICK, validate_every=2), val=Toy(20, seed=5))
    fit(tmp_path / "seldom", replace(QUICK, validate_every=100, log_every=1, checkpoint_every=1))
    assert weights(tmp_path / "often") == weights(tmp_path / "seldom") == weights(plain[0])


def test_lesion_labels_change_nothing(plain, tmp_path):
    data, val = Toy(), Toy(8, seed=1)
    data.d["lesion"] = ~data.d["lesion"]
    del val.d["lesion"]
    fit(tmp_path / "run", data=data, val=val)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_number_of_threads_changes_nothing(plain, tmp_path):
    data, seen = Calls(), []
    data.at = {5: lambda: seen.append(torch.get_num_threads())}
    torch.set_num_threads(2)
    fit(tmp_path / "run", data=data)
    assert seen == [1]
    assert everything(tmp_path / "run") == everything(plain[0])


def test_not_in_the_main_thread(plain, tmp_path):
    thread = threading.Thread(target=lambda: fit(tmp_path / "run"))
    thread.start()
    thread.join()
    assert everything(tmp_path / "run") == everything(plain[0])


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    config = replace(QUICK, steps=20, validate_every=20)
    train(detector(), Toy(), Toy(8, seed=1), tmp_path / "run", config, device="cpu")
    out, err = capsys.readouterr()
    assert not out
    assert "10 steps to go will take about" in err
    assert "Lightning" not in err
    assert "GPU" not in err
    if terminal:
        assert "train: 100%" in err
        assert "20/20" in err
    else:
        assert "step 20 of 20: loss" in err
        assert len(err.splitlines()) <= 12
        assert "\r" not in err


# ------------------------------------------------------------------------------------------------- interrupted
@pytest.mark.parametrize(
    ("changes", "stops"),
    [
        (dict(), (2, 5, 1)),
        (dict(accumulate=2, precision="bf16"), (7,)),
        (dict(batch_size=12, accumulate=3, checkpoint_every=1), (4,)),
    ],
)
def test_stopped_politely_and_resumed(plain, tmp_path, changes, stops):
    config, expected = replace(QUICK, **changes), plain[0]
    if changes:
        expected = tmp_path / "plain"
        fit(expected, config)
    for stop in stops:
        with pytest.raises(KeyboardInterrupt, match=r"stopped at (step \d+ of 12|once); go on with --resume"):
            fit(tmp_path / "run", config, stopping_at(stop), resume=True)
    fit(tmp_path / "run", config, resume=True)
    assert everything(tmp_path / "run") == everything(expected)


def test_stopped_after_it_was_decided_to_go_on(plain, tmp_path, monkeypatch):
    "A signal that comes too late for the checkpoint of this step gets one after the next."
    real = progress.Progress.step

    def late(self, step, *args):
        if step == 6:
            interrupt()
        real(self, step, *args)

    monkeypatch.setattr(progress.Progress, "step", late)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 7 of 12"):
        fit(tmp_path / "run")
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt", "step-0000007.ckpt"]
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_second_signal_stops_at_once(plain, tmp_path):
    data = Calls()
    data.at = {6: lambda: [interrupt(signal.SIGINT) for _ in range(2)]}
    with pytest.raises(KeyboardInterrupt, match="at once"):
        fit(tmp_path / "run", data=data)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt"]
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_killed_between_the_last_checkpoint_and_the_end(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "finish", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run")
    monkeypatch.undo()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    assert fit(tmp_path / "run", resume=True)["result"]["step"] == 12
    assert everything(tmp_path / "run") == everything(plain[0])


@pytest.mark.parametrize(("lost", "from_checkpoint"), [("model.safetensors", True), ("config.json", False)])
def test_done_but_the_result_is_lost(plain, tmp_path, lost, from_checkpoint):
    "A run without its weights is not done: the last checkpoint has them, and without one it is trained again."
    out = tmp_path / "run"
    shutil.copytree(plain[0], out)
    (out / lost).unlink()
    if not from_checkpoint:
        for path in checkpoints(out):
            path.unlink()
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            fit(out, data=stopping_at(8), resume=True)
        assert json.loads((out / "train.json").read_text())["status"] == "not done"
    assert fit(out, resume=True)["status"] == "done"
    assert everything(out)[:3] == everything(plain[0])[:3]
    assert Detector.from_pretrained(out).threshold == plain[1]["result"]["threshold"]


def test_done_already(plain, capsys):
    before = everything(plain[0])
    assert fit(plain[0], resume=True) == plain[1]
    assert "is done already" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"already holds a training .done.: go on with it by --resume"):
        fit(plain[0])
    assert everything(plain[0]) == before


def test_resume_with_other_first_weights(tmp_path, monkeypatch):
    "Killed before the first checkpoint, all that is left of the first weights is their fingerprint."
    monkeypatch.setattr(run, "run_fit", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "run")
    assert not checkpoints(tmp_path / "run")
    given = dict(data=Toy(), val=Toy(8, seed=1), out=tmp_path / "run", config=QUICK, device="cpu", resume=True)
    with pytest.raises(ValueError, match=r"Cannot go on with the training in .*start was [0-9a-f]{16} and is"):
        train(detector(seed=1), **given)
    with pytest.raises(ZeroDivisionError):  # goes on
        train(detector(), **given)


def test_checkpoint_of_an_earlier_version(plain, tmp_path):
    "Version 0.1.0 kept the state of its callback under this name, and the module of the class in the record."
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(out, data=stopping_at(8))
    state = ChecksummedCheckpointIO().load_checkpoint(checkpoints(out)[-1])
    assert set(state["callbacks"]) == {"Keeper"}
    assert set(state["callbacks"]["Keeper"]) == {"rows", "spent", "pause", "calibration"}
    record = json.loads((out / "train.json").read_text())
    record["about"] |= {"module": "mmccd.training", "start": "of another kind"}
    (out / "train.json").write_text(json.dumps(record))
    assert fit(out, resume=True)["about"] == plain[1]["about"]
    assert everything(out)[:3] == everything(plain[0])[:3]


# ------------------------------------------------------------------------------------------------- damage
def test_damaged_checkpoint(plain, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", data=stopping_at(10))
    _old, new = checkpoints(tmp_path / "run")
    new.write_bytes(new.read_bytes()[:-1])
    fit(tmp_path / "run", resume=True)
    err = capsys.readouterr().err
    assert err == f"mmccd: {new} is cut off or damaged; going on from the checkpoint before it.\n"
    assert everything(tmp_path / "run")[:3] == everything(plain[0])[:3]


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


FULL = "Cannot write into .*No space left on device; put that right and go on with --resume"


def test_full_disk_while_a_checkpoint_is_written(plain, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def fifth(fd):  # the record is two, file and folder, and so is each checkpoint
        calls.append(fd)
        (full_disk if len(calls) == 5 else real)(fd)

    monkeypatch.setattr(os, "fsync", fifth)
    with pytest.raises(ValueError, match=FULL):
        fit(tmp_path / "run")
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["step-0000004.ckpt"]
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


@pytest.mark.parametrize("name", ["log.csv", "model.safetensors", "README.md"])
def test_full_disk_anywhere(plain, tmp_path, monkeypatch, name):
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: full_disk() if Path(b).name == name else real(a, b))
    with pytest.raises(ValueError, match=FULL):
        fit(tmp_path / "run")
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert everything(tmp_path / "run") == everything(plain[0])


def test_full_disk_at_the_first_record(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ValueError, match=FULL):
        fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Diverges(ToyCycle):
    def loss(self, batch, generator=None):
        bad = batch["flair"].shape[0] == 8 and self.training and self.bad()
        return super().loss(batch) * (float("nan") if bad else 1)

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
    assert not (tmp_path / "run/model.safetensors").exists()  # nothing that could be mistaken for a result


# ------------------------------------------------------------------------------------------------- ends by a rule
EASY = replace(QUICK, steps=200, validate_every=5, patience=2, progress=0.6)  # nothing can fall that fast for long


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    "An undisturbed run that its rule ends."
    out = tmp_path_factory.mktemp("early") / "run"
    with single_thread():
        return out, fit(out, EASY)


def test_rule_ends_a_run(early):
    out, record = early
    last, losses = record["result"]["step"], [float(r["val_loss"]) for r in log(out) if r["val_loss"]]
    assert record["status"] == "done"
    assert last < EASY.steps
    assert last % EASY.validate_every == 0
    assert converged(losses, EASY)
    assert not any(converged(losses[:n], EASY) for n in range(len(losses)))
    assert (record["result"]["samples"], checkpoints(out)[-1].stem) == (8 * last, f"step-{last:07d}")
    assert f"{last} steps of 8" in (out / "README.md").read_text()
    assert f'"step": {last}' in (out / "train.json").read_text()
    assert Detector.from_pretrained(out).calibration["step"] == last
    assert {float(r["lr"]) for r in log(out)[2:]} == {EASY.lr}


def test_patience_that_never_ends_takes_all_steps(tmp_path):
    assert fit(tmp_path / "run", replace(QUICK, patience=50))["result"]["step"] == QUICK.steps


def test_rule_holds_after_a_kill_at_the_end(early, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(run, "finish", lambda *a: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "run", EASY)
    assert json.loads((tmp_path / "run/train.json").read_text())["status"] == "not done"
    assert fit(tmp_path / "run", EASY, resume=True)["result"]["step"] == early[1]["result"]["step"]
    assert everything(tmp_path / "run") == everything(early[0])


@pytest.mark.parametrize("stop", ["first", "last"])
def test_rule_holds_over_an_interruption(early, tmp_path, stop):
    "That of the last step included, whose batch is read before the one after it: the run is then done, not stopped."
    last = early[1]["result"]["step"]
    if stop == "last":
        fit(tmp_path / "run", EASY, stopping_at(last + 1))
    else:
        with pytest.raises(KeyboardInterrupt, match="stopped at step"):
            fit(tmp_path / "run", EASY, stopping_at(3))
        fit(tmp_path / "run", EASY, resume=True)
    assert everything(tmp_path / "run") == everything(early[0])
