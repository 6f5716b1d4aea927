"""`mmccd train`: what it makes is what Python makes, and is used; what does not fit is refused."""

import json
import os
import signal

import nibabel as nib
import pytest
import torch
from toy_cases import tree, write_case
from toy_detection import refused

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.detector import Detector, Threshold, load_detector
from mmccd.masked_diffusion import load_frozen_decoder
from mmccd.registry import new_detector
from mmccd.training import progress
from mmccd.training.data import store_data
from mmccd.training.record import describe_run
from mmccd.training_loop import make_config

pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("store") / "slices.zarr"
    prepare(
        Phantoms(healthy=2, seed=7),
        place,
        size=32,
        slices=range(77, 80),
        modalities=["flair", "t1", "t2"],
        progress=False,
    )
    return place


def words(store, *more, method="cycle"):
    return ["train", method, store, "--input", "t1", "--target", "flair", "--device", "cpu", "--preset", "smoke", *more]


@pytest.mark.parametrize(
    ("options", "modalities", "networks"),
    [(["--steps", 4], (), 2), (["--steps", 2, "--modalities", "T2, flair,t1"], ("t2", "flair", "t1"), 1)],
)
def test_train_cycle_and_use_it(run, store, tmp_path, options, modalities, networks):
    code, out, err = run(*words(store, *options, "--out", tmp_path / "run"))
    assert code == 0, err
    assert out.startswith(f"cycle from t1 to flair: {options[1]} steps, validation loss ")
    d = Detector.from_pretrained(tmp_path / "run")
    assert (d.config.input, d.config.target, d.config.size, d.config.modalities, len(d.translator.nets)) == (
        "t1",
        "flair",
        32,
        modalities,
        networks,
    )
    case = write_case(tmp_path, "a", ("t1",))  # looking needs no other modality
    code, out, err = run(
        "detect", case, "--weights", tmp_path / "run", "--out", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert code == 0
    assert not err
    assert json.loads(out)["input"] == "t1"
    assert json.loads(out)["detector"] == "CyclicUNet"
    if modalities:
        refused(
            run(*words(store, "--steps", 2, "--modalities", "t1,flair", "--resume", "--out", tmp_path / "run")),
            "Cannot go on",
            "modalities",
        )


def test_train_a_masked_one_without_a_decoder(run, store, tmp_path):
    "One pair, and both directions are trained."
    assert run(*words(store, "--steps", 2, "--out", tmp_path / "run", method="masked"))[0] == 0
    d, first = Detector.from_pretrained(tmp_path / "run"), new_detector("masked", input="t1", target="flair", size=32)
    assert (d.config.modalities, d.config.frozen_decoder, d.config.diffusion) == ((), False, False)
    for part in ("f", "g"):
        assert any(not torch.equal(v, first.state_dict()[k]) for k, v in d.state_dict().items() if k.startswith(part))


def test_train_with_the_packaged_decoder(run, tmp_path):
    "The command that made the packaged weights, in small: the record is that of Python, the decoder that of `cycle`."
    place, three = tmp_path / "slices.zarr", ["flair", "t1", "t2"]
    prepare(Phantoms(healthy=2, seed=7), place, size=64, slices=range(79, 80), modalities=three, progress=False)
    code, out, _err = run(
        "train",
        "mmccd",
        place,
        "--input",
        "flair",
        "--target",
        "t2",
        "--modalities",
        "flair,t1,t2",
        "--decoder",
        "cycle",
        "--preset",
        "smoke",
        "--steps",
        1,
        "--lr",
        0.002,
        "--val",
        1,
        "--validate-every",
        1,
        "--val-slices",
        2,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
        "--json",
    )
    about = json.loads(out)["about"]
    data, val = store_data(place, "flair", "t2", 1, modalities=three)
    first = load_frozen_decoder(
        new_detector(
            "mmccd",
            0,
            input="flair",
            target="t2",
            modalities=three,
            unet="tiny",
            size=64,
            normalisation=data.recipe["normalisation"],
        ),
        load_detector("cycle-flair-t2"),
    )
    assert code == 0
    assert about == describe_run(
        first, data, val, make_config("smoke", steps=1, lr=0.002, validate_every=1, val_slices=2, seed=0)
    )
    d, back = Detector.from_pretrained(tmp_path / "run"), load_detector("cycle-flair-t2").translator.state_dict()
    assert d.config.frozen_decoder
    assert all(torch.equal(v, back[k]) for k, v in d.g.state_dict().items())
    assert any(not torch.equal(v, first.f.state_dict()[k]) for k, v in d.f.state_dict().items())


def test_resume_with_a_decoder(run, store, tmp_path, monkeypatch):

    three = ["--modalities", "flair,t1,t2"]
    for seed in (0, 1):
        assert run(*words(store, *three, "--steps", 1, "--seed", seed, "--out", tmp_path / f"cycle{seed}"))[0] == 0

    def masked(out, *more, back=0):
        return run(
            *words(
                store,
                *three,
                "--steps",
                3,
                *(["--decoder", tmp_path / f"cycle{back}"] if back is not None else []),
                "--out",
                tmp_path / out,
                *more,
                method="masked",
            )
        )

    assert masked("plain")[0] == 0
    real = progress.Progress.step
    monkeypatch.setattr(
        progress.Progress,
        "step",
        lambda self, step, *a: (step == 1 and os.kill(os.getpid(), signal.SIGTERM), real(self, step, *a)),
    )
    code, _out, err = masked("run")
    assert code == 128 + signal.SIGTERM
    assert "go on with --resume" in err
    monkeypatch.undo()
    before = tree(tmp_path / "run")
    refused(masked("run", "--resume", back=None), "Cannot go on", "--decoder was given and is not given now")
    refused(masked("run", "--resume", back=1), "Cannot go on", "the first weights are others (of another --decoder)")
    refused(masked("run", "--resume", "--validate-every", 2), "--validate-every was 10 and is 2 now")
    refused(masked("run", "--resume", "--val-slices", 2), "--val-slices was 16 and is 2 now")
    assert tree(tmp_path / "run") == before
    assert masked("run", "--resume")[0] == 0
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


def alone(store, *more, method="ae"):
    return [w for k, w in enumerate(words(store, *more, method=method)) if k not in (5, 6)]  # without --target


@pytest.mark.parametrize(
    ("method", "kind"),
    [("vae", "AE"), ("dae", "DAE"), ("ddpm-simplex", "DDPM")],
)
def test_train_with_one_modality_and_use_it(run, store, tmp_path, method, kind):
    several = ["--modalities", "T2,flair, t1"] if method == "vae" else []
    code, out, err = run(
        *alone(store, "--steps", 2, "--val-slices", 2, *several, "--out", tmp_path / "run", method=method)
    )
    assert code == 0, err
    assert out.startswith(f"{method} on t1: 2 steps, validation loss ")
    assert "from" not in out.split(",")[0]
    d = Detector.from_pretrained(tmp_path / "run")
    assert (type(d).__name__, d.config.input, d.config.size, d.config.modalities) == (
        kind,
        "t1",
        32,
        ("flair", "t1", "t2") if several else (),
    )
    case = write_case(tmp_path, "a", ("t1",))  # looking needs no other modality
    code, out, err = run(
        "detect", case, "--weights", tmp_path / "run", "--out", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert code == 0
    assert not err
    assert (json.loads(out)["input"], json.loads(out)["detector"]) == ("t1", kind)
    assert nib.load(tmp_path / "out/a/a_anomaly.nii.gz").shape == nib.load(case / "a_t1.nii.gz").shape
    refused(
        run(
            *alone(
                store,
                "--steps",
                2,
                "--val-slices",
                2,
                "--resume",
                "--modalities",
                "t1,t2",
                "--out",
                tmp_path / "run",
                method=method,
            )
        ),
        "Cannot go on",
        "--modalities was",
    )


@pytest.mark.parametrize(
    ("method", "options", "say"),
    [
        ("cycle", ["--decoder", "cycle"], "cycle learns its own decoder: leave --decoder out"),
        ("toy", ["--decoder", "cycle"], "toy learns its own decoder: leave --decoder out"),
        ("mmccd", ["--decoder", "nonsense"], "unknown weights 'nonsense'"),
        ("mmccd", ["--decoder", "/no/such"], "unknown weights '/no/such'"),
        ("masked", ["--decoder", ""], "no modality t1ce"),
        ("mmccd", ["--decoder", "cycle"], "unknown weights 'cycle-t1-t1ce'"),
        ("mmccd", ["--validate-every", 0], "validate_every must be at least 1"),
        ("masked", ["--val-slices", -1], "val_slices must be at least 1"),
        ("mmccd", ["--modalities", "flair"], "t1 is not among the modalities of the network, flair"),
    ],
)
def test_train_masked_refuses(run, store, tmp_path, method, options, say):
    "Before the data are read, which here have no t1ce."
    refused(
        run(
            *words(
                store,
                *options,
                "--target",
                "t1ce" if method in ("mmccd", "masked") else "flair",
                "--out",
                tmp_path / "run",
                method=method,
            )
        ),
        say,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("back", ["threshold-t1", "cycle", "cycle-flair-t2", "."])
@pytest.mark.parametrize("modalities", [[], ["--modalities", "flair,t1,t2"]])
def test_a_decoder_that_does_not_fit(run, store, tmp_path, monkeypatch, back, modalities):
    "No cycle at all; made for slices of another size; a folder with neither."
    monkeypatch.chdir(tmp_path)
    Threshold(input="t1").save_pretrained(tmp_path)
    refused(
        run(*words(store, "--decoder", back, *modalities, "--out", tmp_path / "run", method="mmccd")),
        "the decoder from flair to t1 does not fit: give a cycle that learned",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "options", "say"),
    [
        ("toy", ["--modalities", "a,b"], "toy knows one pair of modalities only: leave --modalities out"),
        ("toy", ["--expected-error"], "toy always shows the error itself: leave --median and --expected-error out"),
        ("cycle", ["--imagination", "located"], "cycle hides nothing: leave --imagination out"),
        ("mmccd", ["--imagination", "dull"], "unknown imagination 'dull': choose published, located, detailed"),
        ("cycle", ["--median", "4"], "window must be an odd number of pixels, got 4"),
        ("cycle", ["--modalities", "flair"], "t1 is not among the modalities of the network, flair"),
        ("cycle", ["--modalities", "flair,t1,pd"], "unknown modality 'pd'"),
        ("cycle", ["--modalities", "flair,t1,t1ce"], "no modality t1ce"),
        ("cycle", ["--modalities", "flair,t1,t1"], "two or more different modalities, got flair, t1, t1"),
        ("cycle", ["--modalities", "flair,t2"], "t1 is not among the modalities of the network, flair, t2"),
        ("cycle", ["--target", "t1"], "input and target are both t1"),
        ("cycle", ["--target", "t1ce"], "no modality t1ce"),
    ],
)
def test_train_cycle_refuses(run, store, tmp_path, method, options, say):
    before = tree(store)
    refused(run(*words(store, *options, "--out", tmp_path / "run", method=method)), say)
    assert not (tmp_path / "run").exists()
    assert tree(store) == before


@pytest.mark.parametrize("method", ["ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex"])
def test_one_modality_has_no_target(run, store, tmp_path, method):
    refused(
        run(*words(store, "--out", tmp_path / "run", method=method)),
        f"{method} takes one modality only: leave --target out",
    )
    refused(run(*alone(store, "--decoder", "cycle", "--out", tmp_path / "run", method=method)), method, "--decoder")
    refused(
        run(*alone(store, "--modalities", "flair,t2", "--out", tmp_path / "run", method=method)),
        "t1 is not among the modalities of the network, flair, t2",
    )
    refused(
        run(*alone(store, "--modalities", "t1,t1", "--out", tmp_path / "run", method=method)),
        "modalities must be different ones, got t1, t1",
    )
    refused(run(*alone(store, "--input", "t1ce", "--out", tmp_path / "run", method=method)), "no modality t1ce")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["cycle", "mmccd", "masked", "toy"])
@pytest.mark.parametrize("options", [[], ["--input", "t2"], ["--input", "flair"], ["--modalities", "flair,t1"]])
def test_another_modality_must_be_named(run, store, tmp_path, method, options):
    if method == "toy" and "--modalities" in options:
        return  # knows no others
    refused(
        run(*alone(store, *options, "--out", tmp_path / "run", method=method)),
        f"{method} goes to another modality: say to which by --target",
    )
    assert not (tmp_path / "run").exists()


def test_a_store_whose_slices_do_not_fit_the_network(run, tmp_path):
    place = tmp_path / "odd.zarr"
    prepare(
        Phantoms(healthy=2, seed=7), place, size=36, slices=range(78, 80), modalities=["flair", "t1"], progress=False
    )
    refused(run(*words(place, "--out", tmp_path / "run")), "size must be a multiple of 8", "36")
    assert not (tmp_path / "run").exists()
