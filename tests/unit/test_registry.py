"The table of methods: one row a method, all names and classes in it are real, and nothing else has to be kept in step."

from dataclasses import replace
from pathlib import Path

import pytest

from mmccd.detector import Threshold
from mmccd.registry import (
    METHODS,
    Method,
    find_method,
    masked_methods,
    new_detector,
    packaged_methods,
    packaged_name,
    registered_class,
    registered_name,
    table_methods,
    trainable_methods,
)
from mmccd.viz import OKABE_ITO
from mmccd.weights.hub import packaged


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_a_row(method):
    cls = method.load_class()
    fields = cls.Config.__dataclass_fields__
    assert METHODS[method.name] is method
    assert set(method.config) <= set(fields)
    assert method.paired == ("target" in fields)
    assert method.trainable == any(p.requires_grad for p in new_detector(method.name, size=32).parameters())
    assert method.colour in OKABE_ITO or 0 <= float(method.colour) <= 1
    assert {*method.compared_with, method.decoder_from} - {""} <= set(METHODS)
    for input, target in method.packaged.items():
        assert packaged_name(method.name, input) == "-".join(v for v in (method.name, input, target) if v)
        assert packaged_name(method.name, input) in packaged()


def test_every_packaged_folder_has_a_row():
    "And the other way round: no weights that the table does not know."
    known = {f"{m.name}-{x}".rstrip("-") for m in METHODS.values() for x in m.packaged}
    assert all(any(name == k or name.startswith(f"{k}-") for k in known) for name in packaged())


def test_stable_names_of_classes():
    "What stored weights and fingerprints hold: one name a class, whatever module it is in."
    names = {registered_name(m.load_class()) for m in METHODS.values()}
    assert names == {
        *("everything", "threshold", "equalised", "ae", "dae", "ddpm", "itermask"),
        *("cycle", "masked", "mmccd", "guided", "ensemble", "toy"),
    }
    for name in names:
        assert registered_name(registered_class(name)) == name
        assert registered_class(METHODS[name].cls.split(":")[1]) is registered_class(name)  # as older files have it
    assert registered_class("nobody") is None


def test_a_class_of_the_same_name_is_not_ours():
    class Threshold:
        pass

    assert registered_name(Threshold) is None


def test_names():
    assert trainable_methods() == (
        *("ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex"),
        *("itermask", "cycle", "masked", "masked-published", "mmccd", "mmccd-published", "guided", "toy"),
    )
    assert table_methods() == (
        *("everything", "threshold", "ae", "vae", "dae", "ddpm", "itermask", "cycle", "masked", "mmccd"),
        "mmccd-published",
    )
    assert set(table_methods()) - set(table_methods(by_default=True)) == {"itermask", "masked"}
    assert masked_methods() == ("masked", "masked-published", "mmccd", "mmccd-published")
    assert set(packaged_methods()) == set(METHODS) - {"everything", "guided", "toy"}
    assert len({METHODS[m].colour for m in table_methods()}) == len(table_methods())


def test_unknown_methods():
    for call in (find_method, new_detector):
        with pytest.raises(ValueError, match=r"^unknown method 'unet': choose ae, ae-dense, .*, toy$"):
            call("unet")
    with pytest.raises(ValueError, match="unknown method 'threshold'"):
        find_method("threshold")


def test_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packaged_name("threshold", "t1ce") == "threshold-t1ce"
    assert packaged_name("ensemble", "t1ce") == "ensemble"
    assert packaged_name("cycle-t1-t2", "t1ce") == "cycle-t1-t2"
    with pytest.raises(ValueError, match="no mmccd for t1ce comes with mmccd: choose --input flair, t2, t1, or"):
        packaged_name("mmccd", "t1ce")
    Path("cycle").mkdir()
    assert packaged_name("cycle", "t1") == "cycle-t1-flair"  # an empty folder is no detector
    Threshold(input="t2").save_pretrained("cycle")
    assert packaged_name("cycle", "t1") == "cycle"


def test_a_method_is_its_config():
    "Methods of one class differ in what the table says; a field that is given wins."
    for name, base in (("ae-dense", "ae"), ("vae", "ae"), ("ddpm-simplex", "ddpm")):
        plain, own = new_detector(base, 3).config, new_detector(name, 3).config
        assert own == replace(plain, **METHODS[name].config) != plain
    vae = new_detector("vae", sigma=0.5, latent=7).config
    assert (vae.sigma, vae.latent) == (0.5, 7)


def test_rows_are_values():
    assert hash(METHODS["vae"]) == hash(replace(METHODS["vae"]))
    with pytest.raises(AttributeError):
        METHODS["vae"].title = "x"
    assert Method("x", "X", "a:B", "blue").packaged == {}
