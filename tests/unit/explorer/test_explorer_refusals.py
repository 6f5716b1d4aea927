"What cannot be shown is refused in one sentence."

import sys
import warnings
from dataclasses import replace
from functools import partial

import pytest
from explorer_toys import MODALITIES, WIDE, in_line, put, refuses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_cases import write_case

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel, explore
from mmccd.explorer.view import SWEEPS, View


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(width=0), ("width", "got 0")),
        (dict(width="8"), ("width", "'8'")),
        (dict(sampler="slow"), ("slow", "paper, fast, one by one")),
        (dict(steps=0), ("steps", "1 to 1000", 0)),
        (dict(steps=1001), ("steps", "1001")),
        (dict(steps=2.5), ("steps", "2.5")),
        (dict(step=0), ("step", "1 to 8", 0)),
        (dict(step=9), ("step", "1 to 8", 9)),
        (dict(swept=-1), ("swept", -1)),
        (dict(seed=-1), ("seed", -1)),
        (dict(seed=2**70), ("seed", 2**70)),
        (dict(rows=3), ("rows", "1", "2", 3)),
        (dict(threshold=-0.1), ("threshold", -0.1)),
        (dict(threshold=float("nan")), ("threshold", "nan")),
        (dict(threshold="1"), ("threshold", "'1'")),
        (dict(place="x"), ("x",)),
        *(
            (({name: wrong}, (name, "True or False", repr(wrong))))
            for name in ("vertical", "by_hand", "twin")
            for wrong in (1, "no", None)
        ),
        (dict(rows=True), ("rows", "whole number", True)),
    ],
    ids=str,
)
def test_views_that_cannot_be(wrong, words, explorer):
    for make in (lambda: View(**dict(place=80) | wrong), lambda: explorer.first_view(**wrong)):
        with refuses(*words):
            make()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(input="t1", target="t1"), ("t1 from t1", "flair to t1")),
        (dict(input="t1ce"), ("t1ce", "flair to t1")),
        (dict(target="seg"), ("seg",)),
        (dict(place=3), ("slice 3", "79 to 81")),
        (dict(width=65), ("65", "64")),
        (dict(start=64), ("64",)),
        (dict(start=-16), ("-16",)),
        (dict(swept=99), ("'fast'", "masks", 99)),
    ],
    ids=str,
)
def test_views_that_are_not_there(wrong, words, explorer, view):
    before, full = explorer.png(view), replace(view, **wrong)
    looks = [
        lambda: explorer.first_view(**wrong),
        lambda: explorer.first_view(steps=2, **wrong),
        lambda: explorer.check_view(full),
        *(partial(f, full) for f in (explorer.image, explorer.describe, explorer.map, explorer.tiles)),
    ]
    if "swept" not in wrong:
        looks += [lambda: explorer.trace(full)]
    for look in looks:
        with refuses(*words):
            look()
    assert explorer.png(view) == before


def test_a_case_without_that_modality(small):
    for input, target in (("t2", "t1"), ("t2", None)):
        with refuses("Ann", "t2", "flair, t1"):
            small.first_view(input=input, **({"target": target} if target else {}))


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fit_finds_what_can_be_shown(small, data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    v = View(
        pick(-5, 99),
        data.draw(st.sampled_from([*MODALITIES, "t1ce"])),
        data.draw(st.sampled_from([*MODALITIES, "t1ce"])),
        pick(-80, 80),
        pick(1, 70),
        True,
        data.draw(st.sampled_from(list(SWEEPS))),
        2,
        1,
        pick(0, 99),
        data.draw(st.booleans()),
    )
    fitted = small.nearest_view(v)
    assert small.check_view(fitted) == fitted == small.nearest_view(fitted)
    try:
        small.check_view(v)
    except ValueError:
        pass
    else:
        assert replace(fitted, by_hand=v.by_hand) == v
        assert fitted.by_hand == v.by_hand or not v.swept


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("nonsense", ("nonsense", "mmccd-flair-t1")),
        ("cycle-flair-t1", ("cycle-flair-t1", "CyclicUNet", "mmccd")),
        ("threshold-flair", ("Threshold",)),
        ("/nowhere/at/all", ("/nowhere/at/all",)),
    ],
)
def test_weights_that_cannot_be(weights, words, subject):
    with refuses(*words):
        Explorer(subject, weights)


@pytest.mark.parametrize("make", [Explorer, explore])
def test_devices_that_are_not_there(make, subject):
    with refuses("quantum", "cpu"):
        make(subject, device="quantum")


def test_other_things_that_are_refused(explorer, view, tmp_path):
    with refuses("'tiles'", "strips", "steps"):
        explorer.gif(view, "tiles")
    with refuses("nobody"):
        explore(tmp_path / "nobody")
    with refuses("quantum"):
        explorer.set_device("quantum")
    assert explorer.device == "cpu"


def test_widgets_are_made_without_warnings(explorer, view):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = Panel(explorer, view)
        put(p, threshold=0.3)
    p.worker.stop()


def test_without_widgets_it_says_how_to_get_them(monkeypatch, subject):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"needs ipywidgets.*pip install 'mmccd\[notebooks\]'"):
        explore(subject)
    e = Explorer(subject, "masked")
    e.png(e.first_view())  # the rest works


def test_explore_opens_what_it_is_told(tmp_path, run):
    case = write_case(tmp_path, "Ann", ("flair", "t1"), affine=WIDE)
    p = explore(str(case), run, "cpu", tmp_path / "out", input="t1", swept=2, steps=2, threshold=0.25)
    assert p.shown == p.explorer.first_view(input="t1", swept=2, steps=2, threshold=0.25)
    assert (p.shown.by_hand, p.shown.input) == (False, "t1")
    assert p.explorer.subject.case.id == "Ann"
    in_line(p)
    shown = p._repr_mimebundle_()
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == p.box.model_id
    assert "JupyterLab" in shown["text/plain"]
    names = {c for w in p.controls.values() for c in w._dom_classes}
    assert names == {f"x-{n.replace('_', '-')}" for n in p.controls}
    p.worker.stop()
