"""What packs the baselines: float16 once, a threshold for each input, a card that says how it was made, and all of it or nothing."""

import json
import shlex
from types import SimpleNamespace

import pytest
import ship_baselines as tool
import torch
from safetensors.torch import load_file

from mmccd import cli
from mmccd.baselines import AE, Equalised
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import app
from mmccd.cycle import CyclicUNet
from mmccd.detection.maps import map_slices
from mmccd.detector import Threshold, fingerprint, load_detector
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.training_loop import make_config
from mmccd.weights.hub import WEIGHTS, packaged_places

SMALL = dict(size=32, modalities=tool.MODALITIES, unet=dict(channels=8, mults=(1, 2), blocks=1, attention=()))
LOG = "step,samples,loss,val_loss\n0,0,,0.5\n1500,6000,0.2,0.25\n3000,12000,0.2,0.3\n"


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module", autouse=True)
def places():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "PLACES", range(70, 72))
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Two healthy subjects: slices 70 to 73, of which two count."
    place = tmp_path_factory.mktemp("healthy") / "slices"
    prepare(
        Phantoms(healthy=2, seed=77),
        place,
        size=64,
        slices=range(70, 74),
        modalities=list(tool.MODALITIES),
        jobs=1,
        progress=False,
    )
    return place


def untrained(name, **config):
    detector = new_detector(name, **(SMALL | dict(n_steps=2) | config))
    torch.manual_seed(1)
    for p in detector.parameters():
        torch.nn.init.normal_(p, std=0.2)  # as made, a network of ours ends in zeros
    return detector


def a_run(folder, detector, store, **record):
    "What `mmccd train` would have left."
    folder.mkdir(exist_ok=True)
    detector.save_pretrained(folder)
    recipe, ids = SliceStore(store).recipe, [f"phantom1-healthy-s9-{i:03d}" for i in range(5)]
    about = {
        "config": {"input": "flair", "modalities": list(tool.MODALITIES)},
        "training": vars(make_config("tiny", steps=3000, lr=0.002, batch_size=4, validate_every=1500)),
        "data": {
            "ids": ids[:3],
            "what": "300 slices of a toy",
            "recipe": recipe | {"phantom": {"version": 1, "seed": 9, "whole": True}},
        },
        "validation": {"ids": ids[3:], "what": "200 slices of a toy"},
    }
    done = {
        "status": "done",
        "about": about,
        "result": {"samples": 12000, "val_loss": 0.3, "seconds": 90.0},
        "date": "2026-01-01",
        "device": "cpu",
        "torch": "2",
    }
    (folder / "train.json").write_text(json.dumps(done | record))
    (folder / "log.csv").write_text(LOG)
    (folder / "curve.png").write_bytes(b"a curve")
    return folder


@pytest.fixture(scope="module")
def shipped(tmp_path_factory, store):
    "All six, and the thresholds on equalised slices."
    folder = tmp_path_factory.mktemp("ship")
    runs = {n: a_run(folder / n, untrained(n), store) for n in tool.BASELINES}
    for what in (*runs.values(), "equalised"):
        tool.main([str(what), str(store), "--out", str(folder / "out")])
    return SimpleNamespace(runs=runs, out=folder / "out")


def listing(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()} if folder.exists() else {}


def test_there_are_the_six_of_the_training():
    assert tool.BASELINES == tuple(tool.WAYS) == ("ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex")


def test_tensors_are_kept_once_in_half_precision(shipped):
    assert {p.name for p in shipped.out.iterdir()} == {*tool.BASELINES, "equalised"}, "and nothing else lies about"
    for n, run in shipped.runs.items():
        assert {p.name for p in (shipped.out / n).iterdir()} == {
            "README.md",
            "config.json",
            "curve.png",
            "log.csv",
            "model.safetensors",
        }
        assert {t.dtype for t in load_file(shipped.out / n / "model.safetensors").values()} == {torch.float16}
        trained, got = load_detector(run).state_dict(), load_detector(packaged_places(shipped.out)[f"{n}-t2"]).state_dict()
        assert trained.keys() == got.keys()
        assert all(torch.equal(v.half().float(), got[k]) for k, v in trained.items())


@pytest.mark.parametrize("name", [*tool.BASELINES, "equalised"])
def test_each_input_has_a_threshold_of_its_own(shipped, store, name):
    data, seen = SliceStore(store).dataset(), set()
    batch = data.batch([k for k, r in enumerate(data.rows) if r.place in (70, 71)])
    for m in tool.MODALITIES:
        d = load_detector(packaged_places(shipped.out)[f"{name}-{m}"])
        assert d.config.input == m
        assert name == "equalised" or (tool.name_of(d) == name and d.config.modalities == tool.MODALITIES)
        values = map_slices(d, batch[m], batch["brain"], torch.Generator().manual_seed(0))[batch["brain"]]
        c = d.calibration
        assert (values > c["threshold"]).double().mean().item() == pytest.approx(c["fpr_reached"], abs=1e-5)
        assert 0.009 < c["fpr_reached"] <= 0.01
        assert c["slices"] == 4
        assert c["subjects"] == 2
        assert c["pixels"] == len(values)
        assert c["data"].startswith("axial slices 70 to 71 of 8 slices")
        seen.add(c["threshold"])
    assert len(seen) == (3 if name != "equalised" else len(seen))
    assert all(v > 0 for v in seen)


def test_names_are_told_from_class_and_settings():
    for n in tool.BASELINES:
        assert tool.name_of(untrained(n)) == n
    with pytest.raises(ValueError, match="none of ae, ae-dense"):
        tool.name_of(Threshold())
    with pytest.raises(ValueError, match="its settings are those of none"):
        tool.name_of(AE(**SMALL, dense=True, latent=5))


def test_the_card_says_what_was_trained(shipped):
    for n in tool.BASELINES:
        card = (shipped.out / n / "README.md").read_text()
        d = load_detector(packaged_places(shipped.out)[f"{n}-t1"])
        for words in (
            f"# {n}: ",
            "lowest 0.2500 at step 1500, 0.3000 at the end",
            "300 slices of a toy",
            "12,000 slices seen",
            f"{sum(p.numel() for p in d.parameters()):,} parameters, 32x32",
            "axial slices 70 to 71 of",
            "Not measured yet: `python tools/baselines_phantom.py`",
            "A dark map is no sign of health",
            "not for real scans",
        ):
            assert words in card, (n, words)
        assert "{" not in card
        assert "None" not in card
        assert " cycle " not in card

    def words(n):
        return (shipped.out / n / "README.md").read_text()

    assert "16 numbers at each of 16x16 places" in words("ae")
    assert "128 numbers without places" in words("ae-dense")
    assert "standard deviation of 0.2" in words("vae")
    assert "250 of 1000 steps of simplex noise" in words("ddpm-simplex")
    assert "in 2 steps of DDIM" in words("ddpm")
    assert "(16 numbers along a side, standard deviation 0.4)" in words("dae")


@pytest.mark.parametrize("name", tool.BASELINES)
def test_the_commands_make_the_same_training(shipped, name, monkeypatch):
    made, train, ship = tool.commands(shipped.runs[name], name)
    assert (
        made
        == "mmccd prepare phantom train.zarr --healthy 5 --seed 9 --whole-heads --slices 70:73 --size 64 --modalities flair,t1,t2"
    )
    assert (
        train
        == f"mmccd train {name} train.zarr --input flair --modalities flair,t1,t2 --steps 3000 --batch-size 4 --lr 0.002 --val 2 --validate-every 1500 --out run-{name}"
    )
    assert ship.split()[1:3] == ["tools/ship_baselines.py", f"run-{name}"]
    asked = []
    monkeypatch.setattr(cli, "run_training", lambda a: asked.append(a) or 0)
    assert app.main(shlex.split(train)[1:]) == 0
    assert {k: asked[0][k] for k in ("method", "steps", "lr", "val", "validate_every", "modalities")} == dict(
        method=name, steps=3000, lr=0.002, val=2, validate_every=1500, modalities="flair,t1,t2"
    )


def test_the_card_quotes_the_evidence_of_these_weights_only(shipped, tmp_path, monkeypatch):
    def summary(v):
        return {"summary": {"ap": {"mean": v}}}

    keys = [f"{n} {m}" for n in ("dae", "threshold") for m in tool.MODALITIES]
    methods = {
        k: {"fingerprint": fingerprint(load_detector(packaged_places(shipped.out)[k.replace(" ", "-")])) if k[0] == "d" else ""}
        for k in keys
    }
    r = {
        "methods": methods,
        "kinds": {k: {key: summary(0.75 if key[0] == "d" else 0.125) for key in keys} for k in tool.KINDS},
        "subjects": {k: {"rows": [0]} for k in tool.KINDS},
        "healthy": {"ids": [0], "summary": {key: {"mean": 0.01} for key in keys}},
        "copies": {"summary": {key: {"copied": {"mean": 0.5}} for key in keys}},
        "seed": {"evidence": 402},
        "date": "today",
        "command": "python x",
    }
    monkeypatch.setattr(tool, "RESULT", tmp_path / "r.json")
    tool.RESULT.write_text(json.dumps(r))
    before = (shipped.out / "dae" / "model.safetensors").stat().st_mtime_ns
    tool.main([str(shipped.runs["dae"]), "--out", str(shipped.out), "--card-only"])
    assert (
        "| dae-t1 | 0.75 | 0.75 | 0.75 | 0.12, 0.12, 0.12 | 1.0% | 50% |"
        in (shipped.out / "dae" / "README.md").read_text()
    )
    assert (shipped.out / "dae" / "model.safetensors").stat().st_mtime_ns == before
    methods["dae t1"]["fingerprint"] = "another"
    tool.RESULT.write_text(json.dumps(r))
    assert tool.scores("dae", shipped.out).startswith("Not measured")


def refused(words, *args):
    with pytest.raises((ValueError, OSError), match=words) as found:
        tool.main([str(a) for a in args])
    assert "\n" not in str(found.value)


def test_what_does_not_fit_is_refused_and_leaves_nothing(shipped, store, tmp_path):
    out, run = tmp_path / "out", tmp_path / "run"

    def ship(words, what=run, *more):
        return refused(words, what, *more or (store,), "--out", out)

    ship("holds no training")
    ship("is not done", a_run(run, untrained("ae"), store, status="not done"))
    refused("give the store", a_run(run, untrained("ae"), store), "--out", out)
    ship("there is no|cannot|no store|does not exist", run, tmp_path / "nothing.zarr")
    ship("holds a CyclicUNet, none of ae", a_run(run, CyclicUNet(**SMALL), store))
    ship("its settings are those of none", a_run(run, AE(**SMALL, latent=3), store))
    ship("--modalities flair,t1,t2", a_run(run, untrained("dae", modalities=()), store))
    refused("is not in .* yet", a_run(run, untrained("dae"), store), "--out", out, "--card-only")
    refused("have no card", "equalised", "--out", out, "--card-only")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "PLACES", range(80, 82))
        ship("no slices at place 80")
    assert not out.exists()
    out.write_text("mine")
    ship("is a file")
    assert out.read_text() == "mine"


def test_what_breaks_on_the_way_leaves_what_was_there(shipped, store, tmp_path, monkeypatch):
    out = tmp_path / "out"
    tool.main([str(shipped.runs["ae"]), str(store), "--out", str(out)])
    before = listing(out)
    other = untrained("ae")
    with torch.no_grad():
        next(other.parameters()).add_(0.1)
    run = a_run(tmp_path / "run", other, store)
    (run / "curve.png").unlink()
    refused("curve.png", run, store, "--out", out)
    assert listing(out) == before
    (run / "curve.png").write_bytes(b"another curve")
    tool.main([str(run), str(store), "--out", str(out)])
    assert listing(out).keys() == before.keys()
    assert (out / "ae" / "curve.png").read_bytes() == b"another curve"


def test_equalised_thresholds_are_ranks(shipped):
    for m in tool.MODALITIES:
        d = load_detector(packaged_places(shipped.out)[f"equalised-{m}"])
        assert type(d) is Equalised and d.threshold == pytest.approx(0.99, abs=0.005), "a slice marks its own hundredth"


@pytest.mark.parametrize("name", tool.BASELINES)
def test_the_packaged_card_quotes_the_evidence(name):
    if not (WEIGHTS / name / "README.md").exists():
        pytest.skip(f"{name} has not been packed")
    found = tool.scores(name, WEIGHTS)
    assert "Not measured" not in found
    assert found in (WEIGHTS / name / "README.md").read_text()
    for m in tool.MODALITIES:
        assert tool.name_of(load_detector(f"{name}-{m}")) == name


def test_the_package_stays_small():
    assert sum(p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()) < 16e6
