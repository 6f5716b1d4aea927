"The baselines go through the training loop like any other detector."

import os
import signal
from dataclasses import replace

import pytest
import torch
from detector_laws import maps
from toy_reconstructions import KINDS, METHOD, THREE, Toy, awake, every, seeded

from mmccd.detector import Detector, fingerprint
from mmccd.error_map import ErrorMapConfig, ExpectedError
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.training.checkpoint import checkpoints
from mmccd.training.log import sample_figure
from mmccd.training.run import train
from mmccd.training_loop import TrainConfig

pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


def start(method, modalities=THREE, **fields):
    return new_detector(method, 0, **dict(size=32, modalities=modalities) | KINDS[method][1] | fields)


def fit(method, out, config, data=None, modalities=THREE, **kwargs):
    return train(
        start(method, modalities), data or Toy(), Toy(4, seed=9), out, config, progress=False, device="cpu", **kwargs
    )


TWO = TrainConfig(steps=2, batch_size=4, warmup=0, log_every=1, validate_every=2, checkpoint_every=1, val_slices=2)


def test_methods():
    made = {m: start(m, ()) for m in METHOD}
    assert {m: type(d).__name__ for m, d in made.items()} == {
        "ae": "AE",
        "ae-dense": "AE",
        "vae": "AE",
        "dae": "DAE",
        "ddpm": "DDPM",
        "ddpm-simplex": "DDPM",
        "itermask": "IterMask",
    }
    plain = {m: new_detector(m).config for m in METHOD}
    assert not plain["ae"].dense
    assert not plain["ae"].sigma
    assert plain["ae-dense"].dense
    assert not plain["ae-dense"].sigma
    assert plain["vae"].dense
    assert plain["vae"].sigma == 0.2
    assert plain["ddpm"].noise == "gaussian"
    assert plain["ddpm-simplex"].noise == "simplex"
    assert new_detector("ddpm-simplex", target="t2").config == plain["ddpm-simplex"]
    for m in METHOD:
        again, other = start(m, ()), new_detector(m, 1, size=32, **KINDS[m][1])
        assert all(torch.equal(v, made[m].state_dict()[k]) for k, v in again.state_dict().items())
        assert any(not torch.equal(v, made[m].state_dict()[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("method", ["vae", pytest.param("ddpm-simplex", marks=pytest.mark.slow)])
def test_learns(method, tmp_path):
    "Twenty steps, and the loss on other slices falls."
    config = TrainConfig(steps=20, batch_size=8, lr=5e-3, warmup=2, ema=0.8, validate_every=20, val_slices=4)
    record = fit(method, tmp_path / "run", config)
    log = [line.split(",") for line in (tmp_path / "run" / "log.csv").read_text().splitlines()]
    first = float(log[1][log[0].index("val_loss")])
    assert record["result"]["val_loss"] < 0.9 * first
    again = Detector.from_pretrained(tmp_path / "run")
    assert type(again) is KINDS[method][0]
    assert again.config == start(method).config
    assert again.threshold > 0
    assert again.for_modality("t1").calibration is None


class Stops(Toy):
    "Asks the process to stop when the batch of the third step is drawn."

    seen = 0

    def batch(self, indices):
        self.seen += 1 < len(indices) < len(self)
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().batch(indices)


@pytest.mark.parametrize("method", [pytest.param("vae", marks=pytest.mark.slow), "ddpm-simplex"])
def test_interrupted_and_resumed(method, tmp_path):
    "Modality, step and noise are drawn anew at each step: after an interruption every bit of them is the same."
    config = replace(TWO, steps=5, checkpoint_every=2, validate_every=5)
    fit(method, tmp_path / "plain", config)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d of 5"):
        fit(method, tmp_path / "run", config, Stops())
    assert checkpoints(tmp_path / "run")
    assert not (tmp_path / "run/README.md").exists()
    fit(method, tmp_path / "run", config, resume=True)
    a, b = (tmp_path / n / "model.safetensors" for n in ("plain", "run"))
    assert a.read_bytes() == b.read_bytes()
    assert (tmp_path / "plain/config.json").read_text() == (tmp_path / "run/config.json").read_text()
    assert any(
        not torch.equal(v, start(method).state_dict()[k])
        for k, v in Detector.from_pretrained(tmp_path / "run").state_dict().items()
    )


@pytest.mark.parametrize(("one", "other"), [("ae-dense", "vae"), ("ddpm", "ddpm-simplex"), ("ae", "dae")])
def test_a_run_of_one_is_not_gone_on_with_as_another(one, other, tmp_path):
    fit(one, tmp_path / "run", TWO)
    with pytest.raises(ValueError, match="Cannot go on with the training in"):
        fit(other, tmp_path / "run", TWO, resume=True)


@pytest.mark.parametrize("method", METHOD)
def test_a_modality_that_the_slices_lack(method, tmp_path):
    for modalities, input in (((), "t1ce"), ((*THREE, "t1ce"), "flair")):
        with pytest.raises(ValueError, match="slices for training have no t1ce"):
            train(start(method, modalities, input=input), Toy(), Toy(4), tmp_path / "run", TWO, device="cpu")
    assert not (tmp_path / "run").exists()


@every
def test_the_sample_shows_what_is_given_back(kind, monkeypatch):
    import mmccd.viz as viz

    drawn, show = {}, viz.show_rows
    monkeypatch.setattr(
        viz,
        "show_rows",
        lambda rows, row_titles, **kw: (
            drawn.update(zip(row_titles, rows), kw=kw) or show(rows, row_titles=row_titles, **kw)
        ),
    )
    d, val = awake(kind), Toy(4)
    figure = sample_figure(d, val)
    with torch.no_grad():
        back = d.reconstruct(val.d["flair"], val.d["brain"], seeded())
    assert list(drawn) == ["input flair", "reconstruction", "map", "kw"]
    assert torch.equal(drawn["reconstruction"], back)
    assert torch.equal(drawn["map"], maps(d, val.d["flair"], val.d["brain"]))
    assert drawn["kw"]["vmax"] == [1.0, 1.0, 0.5]
    assert any(t.get_text() == "reconstruction" for a in figure.axes for t in (*a.texts, a.yaxis.label, a.title))


def test_the_expected_error_is_learned_at_the_end(tmp_path):
    "From the validation slices; the threshold is set after it, the networks are as without it, and a seed decides."
    on = ErrorMapConfig(window=3, how="median", expected=True)
    runs = {"without": {}, "with": {"error": on}, "again": {"error": on}}
    records = {
        k: train(start("dae", **v), Toy(), Toy(4, seed=9), tmp_path / k, TWO, progress=False, device="cpu")
        for k, v in runs.items()
    }
    without, with_it, again = (Detector.from_pretrained(tmp_path / k) for k in runs)
    assert with_it.config.error == on
    assert all(torch.equal(v, with_it.state_dict()[k]) for k, v in without.state_dict().items())
    fresh = ExpectedError(3).state_dict()
    assert not any(torch.equal(v, fresh[k]) for k, v in with_it.expected_error.state_dict().items())
    assert fingerprint(with_it) == fingerprint(again)
    assert with_it.threshold == again.threshold == records["with"]["result"]["threshold"] != without.threshold
    cards = [(tmp_path / k / "README.md").read_text() for k in ("without", "with")]
    assert ["error to be expected" in c for c in cards] == [False, True]
