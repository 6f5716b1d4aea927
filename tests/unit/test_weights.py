"Detectors on disk: folders of one and of several, names, damage, classes of one's own, fingerprints."

import hashlib
import json
import os
import pickle
import re
from dataclasses import dataclass, make_dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from detector_laws import Tiny, maps, toy_slices
from torch import nn

from mmccd import detector as detector_module
from mmccd.detector import (
    Detector,
    EverythingPositive,
    Threshold,
    calibrate,
    fingerprint,
    load_detector,
    save_detector,
    save_variants,
)
from mmccd.files import write_atomic
from mmccd.registry import METHODS, new_detector
from mmccd.weights import hub, packaged
from mmccd.weights.hub import WEIGHTS, absolute_name, find_weights, packaged_places

ROOT = Path(__file__).resolve().parents[2]
SINGLE = ("ae", "ae-dense", "dae", "ddpm", "ddpm-simplex", "equalised", "itermask", "threshold", "vae")
PAIRS = ("flair-t1", "flair-t2", "t1-flair", "t1-t2", "t2-flair", "t2-t1")
NAMES = sorted(
    [f"{n}-{m}" for n in SINGLE for m in ("flair", "t1", "t2")]
    + [f"{n}-{p}" for n in ("cycle", "masked", "masked-published", "mmccd", "mmccd-published") for p in PAIRS]
    + ["threshold-t1ce", "ensemble"]
)


SMALL = dict(channels=8, mults=(1, 2), blocks=1, attention=())


@cache
def shipped(name):
    "A packaged detector, loaded once."
    return load_detector(name)


def saved(tmp_path, detector=None):
    "A folder with a calibrated detector."
    x, brain = toy_slices()
    return calibrate(detector or Tiny(), x, brain, data="toy").save_pretrained(tmp_path / "d")


def change(folder, **fields):
    "Other values in config.json."
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | fields))


# ------------------------------------------------------------------------------------------------- one detector


def test_saving_again_replaces(tmp_path):
    folder = saved(tmp_path)
    Threshold(input="t2").save_pretrained(folder)
    assert load_detector(folder).config.input == "t2"


def test_float16_rounds_once(tmp_path):
    d = Tiny()
    again = load_detector(save_detector(d, tmp_path / "half", half=True))
    for k, v in d.state_dict().items():
        assert again.state_dict()[k].dtype == torch.float32
        assert torch.equal(again.state_dict()[k], v.half().float())
    assert not all(torch.equal(v, v.half().float()) for v in d.state_dict().values())
    assert fingerprint(load_detector(save_detector(again, tmp_path / "full"))) == fingerprint(again)


def test_wrong_class(tmp_path):
    with pytest.raises(ValueError, match="holds a Tiny, not a Threshold"):
        Threshold.from_pretrained(saved(tmp_path))
    assert isinstance(Tiny.from_pretrained(tmp_path / "d"), Tiny)


def test_save_refuses_a_file(tmp_path):
    (tmp_path / "f").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        Threshold().save_pretrained(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "mine"


def test_interrupted_write(tmp_path, monkeypatch):
    path = write_atomic(tmp_path / "a", b"old")

    def broken(a, b):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# ------------------------------------------------------------------------------------------------- damage


def truncate(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-8])


DAMAGE = {
    "truncated": truncate,
    "another size": lambda f: change(f, config={"width": 8}),
    "unknown field": lambda f: change(f, config={"depth": 3}),
    "config is null": lambda f: change(f, config=None),
    "config is no dict": lambda f: change(f, config=[1]),
    "a value of another type": lambda f: change(f, config={"width": "wide"}),
    "unknown class": lambda f: change(f, detector="Nobody"),
    "class is a number": lambda f: change(f, detector=5),
    "no JSON": lambda f: (f / "config.json").write_text("{not json"),
    "a list": lambda f: (f / "config.json").write_text("[]"),
    "empty": lambda f: (f / "config.json").write_text("{}"),
    "no text": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "no tensors": lambda f: (f / "model.safetensors").unlink(),
    "tensors nowhere": lambda f: change(f, tensors="nowhere"),
    "tensors a number": lambda f: change(f, tensors=5),
    "tensors elsewhere": lambda f: change(f, tensors="../../../nowhere"),
    "no variant": lambda f: change(f, variants={}),
    "variants are a list": lambda f: change(f, variants=["a"]),
    "a variant is empty": lambda f: change(f, variants={"a": {}}),
    "a variant is a number": lambda f: change(f, variants={"a": 3}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_folders(tmp_path, damage):
    folder = saved(tmp_path)
    damage(folder)
    with pytest.raises(ValueError, match=r"annot (load the detector in|read)") as e:
        load_detector(folder)
    assert str(folder) in str(e.value)
    assert "\n" not in str(e.value)


INF, NAN = float("inf"), float("nan")
CALIBRATIONS = [
    *[{"threshold": v} for v in (True, [0.5], NAN, INF, -INF, -1, 1e308, None, "0.5", {}, 10**400)],
    *[{"threshold": 0.5, "fpr": v} for v in (0, -0.1, 1.1, NAN, "1 %", True)],
    *[{"threshold": 0.5, k: v} for k, v in {"cases": "a", "slices": -3, "fpr_of_subjects": [2], "post": 5}.items()],
    *[{}, [], 3, "x"],
]


@pytest.mark.parametrize("calibration", CALIBRATIONS, ids=lambda c: json.dumps(c)[:40])
def test_a_calibration_that_means_nothing_is_refused(tmp_path, calibration):
    "Otherwise every patient would have 0 ml of anomaly, or a library would fail later."
    folder = saved(tmp_path)
    field = f"calibration.{list(calibration)[-1]}" if calibration and isinstance(calibration, dict) else "calibration"
    for fields in ({"calibration": calibration}, {"variants": {"v": {"config": {}, "calibration": calibration}}}):
        change(folder, **fields)
        with pytest.raises(ValueError, match=rf"Cannot read {folder}/config.json: .*{field}.*; copy the weights again"):
            load_detector(folder)


TAMPERED = {
    "unet.blocks": [2**70, 65, 0, -1, True, "2", None, 2.5],
    "unet.channels": [4096, 2**31, 0, [16]],
    "unet.mults": [[], [2] * 300, [10**6], "12", [[1]]],
    "unet.heads": [0, 10**9],
    "unet.stem": [0, 2**40],
    "unet.attention": [5, ["a"], [0]],
    "unet.dropout": [-1, 2, NAN, "a"],
    "unet.time": [1, "yes"],
    "unet.nothing": [1],
    "unet": [None, "huge", [], 7],
    "size": [10**9, 65536, -32, 32.5, True],
    "normalisation": ["nothing", 3],
    "modalities": [["flair", "t1", "t2", *map(str, range(10**5))], "flair", [1]],
    "steps": [2**40, 0, True],
    "sampler": [
        None,
        5,
        "slow",
        {"masks": "all"},
        {"eta": NAN},
        {"eta": 7},
        {"steps": 10**9},
        {"width": 0.5},
        {"n": 1},
    ],
    "n_steps": [10**9, 0, [25]],
    "imagination.blobs": [-0.1, 2, "0.5"],
    "imagination.hidden": ["stars", 5],
    "imagination.channels": [["age"], "mask", [1]],
    "imagination.cutoff": [-1, INF, None],
    "latent": [10**12, 4096, 0, "16"],
    "grid": [0, True],
    "sigma": [-1, INF, 1e999, None],
    "input": [5, None, "../../etc", ["flair"]],
}


@pytest.mark.parametrize("method", ["ae", "dae", "ddpm", "cycle", "masked", "mmccd"])
def test_a_config_is_checked_before_anything_is_built(tmp_path, monkeypatch, method):
    modalities = {"modalities": ("flair", "t1", "t2")} if METHODS[method].paired else {}
    d = new_detector(method, size=32, unet=SMALL, **modalities)
    folder = d.save_pretrained(tmp_path / "d")
    about, built = json.loads((folder / "config.json").read_text()), []
    most = sum(p.numel() for p in d.parameters())
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, *args, **kwargs: built.append(tensor.numel()))
    for path, values in TAMPERED.items():
        first, _, last = path.partition(".")
        if first not in about["config"]:
            continue
        for value in values:
            inside = {last: value} if last else value
            whole = about["config"][first] | inside if isinstance(inside, dict) else value
            change(folder, config=about["config"] | {first: whole})
            with pytest.raises(ValueError, match=rf"annot (read|load the detector in) {folder}") as error:
                load_detector(folder)
            assert len(str(error.value)) < 700, error.value
    change(folder, config=about["config"])
    assert max(built, default=0) <= most, "memory was used that no tensor in the file needs"
    assert fingerprint(load_detector(folder)) == fingerprint(d)


DAMAGE = ("a NaN", "another type", "another shape", "another name", "one more", "one less", "no header")


@pytest.mark.parametrize("damage", DAMAGE)
def test_tensors_that_are_not_those_of_the_network(tmp_path, damage):
    from safetensors.torch import load_file, save

    folder = saved(tmp_path, new_detector("dae", size=32, unet=SMALL))
    tensors = load_file(folder / "model.safetensors")
    name = next(k for k, v in tensors.items() if v.ndim > 1)
    if damage == "one less":
        del tensors[name]
    elif damage == "another name":
        tensors[name + "x"] = tensors.pop(name)
    elif damage == "one more":
        tensors["evil\x1b[2J"] = torch.zeros(3)
    else:
        other = {"a NaN": lambda v: v * NAN, "another type": lambda v: v.long(), "another shape": lambda v: v.flatten()}
        tensors[name] = other.get(damage, lambda v: v)(tensors[name])
    content = save(tensors) if damage != "no header" else b"\xff" * 100
    (folder / "model.safetensors").write_bytes(content)
    change(folder, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ValueError, match=rf"cannot load the detector in {folder}: .*; copy the weights again") as error:
        load_detector(folder)
    assert str(error.value).isprintable()
    assert damage in ("no header", "one less") or name in str(error.value) or "evil" in str(error.value)


def test_tensors_of_another_training(tmp_path):
    "They fit, and would give other maps at the old threshold."
    folder, other = saved(tmp_path), Tiny()
    other.net[0].bias.data += 1
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(ValueError, match="its two files do not belong together; copy the weights again"):
        load_detector(folder)


def test_never_unpickles(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = saved(tmp_path)
    evil = pickle.dumps(Evil())
    (folder / "model.safetensors").write_bytes(evil)
    change(folder, sha256=hashlib.sha256(evil).hexdigest())
    with pytest.raises(ValueError, match="cannot load"):
        load_detector(folder)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("about", [{"detector": "evil_module:Nobody"}, {"detector": "Nobody", "module": "evil_module"}])
def test_a_file_makes_nothing_be_imported(tmp_path, monkeypatch, about):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = saved(tmp_path)
    change(folder, **about)
    with pytest.raises(ValueError, match="class evil_module:Nobody, which is not defined here: import the module"):
        load_detector(folder)


# ------------------------------------------------------------------------------------------------- several detectors


@dataclass(frozen=True)
class TwoConfig:
    input: str = "flair"
    width: int = 2
    among: tuple = ()


class Two(Detector):
    "A network that serves several inputs."

    Config = TwoConfig

    def __init__(self, config=None, **kwargs):
        super().__init__(config, **kwargs)
        self.net = nn.Linear(self.config.width, 1)

    def score(self, x, brain, generator=None):
        return x.abs() + self.net.weight.abs().sum()


def several():
    "Two detectors with the same tensors, by name."
    torch.manual_seed(0)
    a = Two(input="t2", among=("t2", "t1"))
    b = Two(input="t1", among=("t2", "t1"))
    b.load_state_dict(a.state_dict())
    a.calibration, b.calibration = {"threshold": 1.0, "fpr": 0.01}, {"threshold": 2.0, "fpr": 0.01}
    return {"t2": a, "t1": b}


def test_variants_share_a_folder(tmp_path):
    made = several()
    folder = save_variants(made, tmp_path / "two")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    about = json.loads((folder / "config.json").read_text())
    assert about["config"] == {"width": 2, "among": ["t2", "t1"]}
    assert about["variants"]["t1"] == {"config": {"input": "t1"}, "calibration": made["t1"].calibration}
    for again, name in (
        (load_detector(folder), "t2"),
        (load_detector(folder, variant="t1"), "t1"),
        (load_detector(f"{folder}:t1"), "t1"),
        (load_detector(folder.parent / "two:t2"), "t2"),
        (Two.from_pretrained(folder, "t1"), "t1"),
    ):
        assert (again.config.input, again.calibration) == (name, made[name].calibration)
        assert torch.equal(again.net.weight, made[name].net.weight)


def test_variants_that_are_not_there(tmp_path):
    folder = save_variants(several(), tmp_path / "two")
    for name, variant in ((folder, "flair"), (f"{folder}:flair", None)):
        with pytest.raises(ValueError, match="it has no variant 'flair': choose t2, t1"):
            load_detector(name, variant=variant)
    with pytest.raises(ValueError, match="it has no variant 't1': it holds a single detector"):
        load_detector(saved(tmp_path), variant="t1")


def test_what_is_no_variant_is_refused(tmp_path):
    made = several()
    with torch.no_grad():
        made["t1"].net.weight += 1
    with pytest.raises(ValueError, match="variant t1 is another detector than t2"):
        save_variants(made, tmp_path / "two")
    with pytest.raises(ValueError, match="variant floor is another detector than bright"):
        save_variants({"bright": Threshold(), "floor": EverythingPositive()}, tmp_path / "two")
    assert not (tmp_path / "two").exists()


# ------------------------------------------------------------------------------------------------- names


def test_packaged_names_stay():
    assert packaged() == NAMES


def test_packaged_names_are_of_the_methods():
    places = packaged_places()
    assert {p.folder.name for p in places.values()} == {m.name for m in METHODS.values() if m.packaged}
    for m in METHODS.values():
        for input, target in m.packaged.items():
            assert f"{m.name}-{input}-{target}".rstrip("-") in places


@pytest.mark.parametrize("method", sorted({p.folder.name for p in packaged_places().values()}))
def test_packaged_folders_are_whole(method):
    "Tensors, a config, a card; all variants can be built, with a threshold each."
    folder, config = WEIGHTS / method, METHODS[method]
    assert {p.name for p in folder.iterdir()} - {"curve.png", "log.csv"} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }
    assert "not a medical device" in (folder / "README.md").read_text()
    for name, place in packaged_places().items():
        if place.folder == folder:
            d = shipped(name)
            assert type(d) is config.load_class()
            known = {k: getattr(d.config, k) for k in ("input", "target", "modalities") if hasattr(d.config, k)}
            new = new_detector(method, **known).config
            assert all(getattr(d.config, k) == getattr(new, k) for k in config.config)
            alone = f"{d.config.input}-{getattr(d.config, 'target', '')}".rstrip("-")
            assert place.variant == (None if name == method else alone)
            assert d.threshold > 0
            assert "phantom" in d.calibration["data"]


def test_names(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "weights")
    save_variants({"flair": Threshold(), "t1": Threshold(input="t1")}, tmp_path / "weights" / "threshold")
    assert packaged() == ["threshold-flair", "threshold-t1"]
    assert load_detector("threshold-t1").config.input == "t1"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, words in [
        ("treshold", "one of threshold-flair, threshold-t1"),
        ("threshold-t1:flair", "unknown weights"),
        (tmp_path / "empty", "config.json is missing"),
        (f"{tmp_path}/empty:t1", "config.json is missing"),
        (tmp_path / "file", "is a file"),
        ("/no/such/folder", "unknown weights"),
        ("./no", "unknown weights"),
        ("~/no", "unknown weights"),
        ("no/", "unknown weights"),
        (":", "unknown weights"),
    ]:
        with pytest.raises(ValueError, match=words):
            find_weights(name)


def test_a_folder_by_a_name_that_holds_anywhere(tmp_path, monkeypatch):
    save_variants(several(), tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    assert absolute_name("two") == f"{tmp_path}/two"
    assert absolute_name("two:t1") == f"{tmp_path}/two:t1"
    assert [absolute_name(n) for n in ("one", "one:t1", "cycle-flair-t1", "me/two", "", ":")] == [None] * 6


def test_a_folder_comes_before_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Threshold(input="t2").save_pretrained("cycle-flair-t1")
    assert load_detector("cycle-flair-t1").config.input == "t2"
    assert load_detector(packaged_places()["cycle-flair-t1"]).config.input == "flair"


# ------------------------------------------------------------------------------------------------- older files


def as_before(folder, name, module, **fields):
    "The folder as version 0.1.0 wrote it."
    change(folder, detector=name, module=module, **fields)


@pytest.mark.parametrize("module", ["mmccd.detector", "mmccd.somewhere.else"])
def test_the_packages_own_classes_in_older_files(tmp_path, module):
    folder = saved(tmp_path, Threshold(input="t2"))
    as_before(folder, "Threshold", module)
    again = load_detector(folder)
    assert type(again) is Threshold
    assert again.config.input == "t2"


def test_classes_of_ones_own_in_older_files(tmp_path):
    folder = saved(tmp_path)
    as_before(folder, "Tiny", Tiny.__module__)
    assert type(load_detector(folder)) is Tiny


def test_shared_tensors_in_older_files(tmp_path):
    "Several configs took their tensors from a neighbouring folder, and from nowhere else."
    folder = saved(tmp_path)
    (tmp_path / "all").mkdir()
    (folder / "model.safetensors").rename(tmp_path / "all/model.safetensors")
    as_before(folder, "Tiny", Tiny.__module__, tensors="all")
    assert load_detector(folder).threshold > 0
    (tmp_path / "deep").mkdir()
    folder = folder.rename(tmp_path / "deep/d")
    for tensors in ("all", "../all"):
        change(folder, tensors=tensors)
        with pytest.raises(ValueError, match=r"model\.safetensors cannot be read; copy the weights again"):
            load_detector(folder)


def test_a_field_of_a_newer_version(tmp_path):
    folder = saved(tmp_path, Threshold(input="t2"))
    change(folder, config={"input": "t2", "invented": 1}, mmccd="99.0.0")
    with pytest.raises(ValueError, match=r"the field invented is unknown; .*, or update mmccd\.$"):
        load_detector(folder)


def test_renamed_fields_and_tensors(tmp_path):
    "One map from the names in older files to those of today; the names in somebody else's class are theirs."
    from safetensors.torch import load_file, save_file

    d = new_detector("masked", size=32, modalities=("flair", "t1", "t2"), unet=SMALL)
    folder = d.save_pretrained(tmp_path / "d")
    about = json.loads((folder / "config.json").read_text())
    sampler = {("together" if k == "n_strips" else k): v for k, v in about["config"]["sampler"].items()}
    back = {"frozen_decoder": "frozen_back", "augment_masks": "varied", "extra_targets": "also"}
    config = {back.get(k, k): v for k, v in about["config"].items()} | {"sampler": sampler | {"masks": "tiles"}}
    old = {k.replace("scale_shift", "tell"): v for k, v in load_file(folder / "model.safetensors").items()}
    assert old.keys() != d.state_dict().keys()
    save_file(old, folder / "model.safetensors")
    sha = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    as_before(folder, "MaskedUNet", "mmccd.masked_diffusion", config=config, sha256=sha)
    again = load_detector(folder)
    assert again.config == d.config
    assert fingerprint(again) == fingerprint(d)

    class Looks(Tiny):
        def __init__(self, config=None, **kwargs):
            super().__init__(config, **kwargs)
            self.look = nn.Linear(1, 1)

    assert "look.weight" in load_detector(Looks().save_pretrained(tmp_path / "theirs")).state_dict()


# ------------------------------------------------------------------------------------------------- classes of one's own


def test_a_class_of_the_same_name_changes_nothing(tmp_path):
    "Not for packaged weights, not for folders, not for fingerprints."
    x, brain = toy_slices()
    theirs = saved(tmp_path, Threshold(input="t2"))
    before = fingerprint(load_detector(theirs))

    class Mine(Threshold):
        def score(self, x, brain, generator=None):
            return torch.ones_like(x)

    mine = type("Threshold", (Mine,), {"__module__": "somebody"})(input="t2")
    for name in (theirs, "threshold-flair"):
        assert type(load_detector(name)) is detector_module.Threshold
    assert fingerprint(load_detector(theirs)) == before != fingerprint(mine)
    folder = calibrate(mine, x, brain).save_pretrained(tmp_path / "mine")
    again = load_detector(folder)
    assert type(again) is type(mine)
    assert torch.equal(maps(again, x, brain), brain.float())


def test_a_class_of_ones_own_must_be_there(tmp_path, monkeypatch):
    folder, name = saved(tmp_path), f"{Tiny.__module__}:Tiny"
    assert json.loads((folder / "config.json").read_text())["detector"] == name
    monkeypatch.delitem(Detector.registry, name)
    with pytest.raises(ValueError, match=f"of the class {name}, which is not defined here: import the module"):
        load_detector(folder)
    assert type(Tiny.from_pretrained(folder)) is Tiny  # whoever names the class has it


def test_a_class_that_moved_to_another_module(tmp_path):
    folder = saved(tmp_path)
    change(folder, detector="another.module:Tiny")
    assert type(Tiny.from_pretrained(folder)) is Tiny
    with pytest.raises(ValueError, match="not defined here"):
        Detector.from_pretrained(folder)


# ------------------------------------------------------------------------------------------------- fingerprints


def test_a_fingerprint_is_of_class_config_and_tensors():
    d = Tiny()
    before = fingerprint(d)
    assert fingerprint(Tiny(width=2)) != before
    d.calibration = {"threshold": 3.0}
    assert fingerprint(d) == before, "a threshold is no part of what makes the maps"
    next(d.parameters()).data += 1e-3
    assert fingerprint(d) != before
    assert fingerprint(EverythingPositive()) != fingerprint(Threshold())
    assert fingerprint(Threshold(input="t1")) == fingerprint(Threshold(input="t1", sign=-1))


def test_a_new_field_with_a_default_changes_no_fingerprint(monkeypatch):
    "Neither in the config, nor in one inside it; another module changes none either."

    def configs(*names):
        "A config with another inside it, of these fields; the last ones have come later."
        net = make_dataclass("Net", [("channels", int, 4), ("heads", int, 2)][: len(names)], frozen=True)
        fields = [("net", net, net()), ("noise", str, "none")][: len(names)]
        return net, make_dataclass("Config", fields, frozen=True)

    (net, config), (new_net, new_config) = configs("old"), configs("old", "new")
    monkeypatch.setattr("mmccd.detector.registered_name", lambda cls: "same")

    class Old(Detector):
        def __init__(self, config):
            super().__init__(config)

    class New(Old):
        pass

    plain = fingerprint(Old(config()))
    assert plain == fingerprint(New(new_config()))
    assert plain != fingerprint(Old(config(net(8)))) == fingerprint(New(new_config(new_net(8))))
    assert plain != fingerprint(New(new_config(noise="some"))) != fingerprint(New(new_config(new_net(4, 3))))


RECORD = json.loads((ROOT / "experiments/fingerprints.json").read_text())


def test_recorded_fingerprints_are_those_of_the_packaged_weights():
    "Results name detectors by them; after a change on purpose run experiments/migrate_fingerprints.py."
    now = {n: fingerprint(shipped(n)) for n in packaged()}
    assert now == {n: RECORD["detectors"][n]["now"] for n in packaged()}
    assert len(set(now.values())) == len(now)


def test_results_are_migrated():
    "No fingerprint of version 0.1.0 is left in a result, but those of networks that are not kept, which say so."
    text = "".join(p.read_text() for p in (ROOT / "data/results").glob("*.json"))
    old = {h for known in RECORD["detectors"].values() for h in known["v1"]}
    assert not old & set(re.findall(r'"([0-9a-f]{16})"', text))
    assert set(re.findall(r'"fingerprint_v1": "([0-9a-f]{16})"', text)) == set(RECORD["lost"])
    assert not set(RECORD["lost"]) & set(re.findall(r'"fingerprint": "([0-9a-f]{16})"', text))
