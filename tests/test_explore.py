"The explorer without a browser: the same view is the same picture, what is kept changes nothing, pictures on fixed scales, and controls that a bad file does not stop."

import asyncio
import html
import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from base64 import b64decode
from collections import OrderedDict
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from itertools import permutations

import mmccd.explore as ex
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageSequence
from toy_cases import AFFINE, tree, volumes, write_case

from mmccd.detector import calibrate, load_detector, save_detector
from mmccd.explorer import canvas, engine, panel, render, subjects, worker
from mmccd.explorer.canvas import (
    GAP,
    GREYS,
    HOT,
    PAINTS,
    PALETTE,
    SHADES,
    TITLE,
    Tile,
    draw,
    draw_tile,
    edge,
    fitting,
    paint_over,
    png_of,
    pure,
    shade,
)
from mmccd.explorer.engine import LRUCache
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel, explore
from mmccd.explorer.subjects import file_subject, phantom_subject, upload_subject
from mmccd.explorer.view import SWEEPS, View, cycle_key, needed
from mmccd.explorer.worker import Latest, wanted_by
from mmccd.masked_diffusion import MMCCD, SAMPLERS, MaskedUNet, Sampler
from mmccd.masking import pool, strip
from mmccd.runtime import single_thread
from mmccd.scoring import dice, precision, recall
from mmccd.slices import resize, resize_labels, to_slices
from mmccd.unet import UNetConfig

WIDE = AFFINE @ np.diag([3.0, 3.0, 1.0, 1.0])  # a toy brain of 36 square centimetres
SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(), heads=2)
THREE = ("flair", "t1", "t2")
WAYS = list(permutations(THREE, 2))


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def subject():
    return phantom_subject(slices=range(79, 82))


@pytest.fixture(scope="module")
def explorer(subject):
    return Explorer(subject)


@pytest.fixture(scope="module")
def view(explorer):
    return explorer.first_view(steps=2)


def untrained(folder, cls=MMCCD, seed=0, **config):
    "What a run would have left, but with random weights."
    d, g = cls(**dict(size=32, modalities=THREE, unet=SMALL) | config), torch.Generator().manual_seed(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    if d.config.normalise_by:
        d.healthy_mean.copy_(0.5 + torch.rand(d.healthy_mean.shape, generator=g))
    return save_detector(d, folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return file_subject(write_case(tmp_path_factory.mktemp("toy"), "Ann", ("flair", "t1"), affine=WIDE))


@pytest.fixture(scope="module")
def small(run, toy):
    return Explorer(toy, run)  # quick: a network evaluation takes a few milliseconds


def one_sentence(text, *words):
    assert (
        text
        and "\n" not in text
        and "Traceback" not in text
        and "Error" not in text
        and "Errno" not in text
        and "Unexpected" not in text
    ), text
    for w in words:
        assert str(w) in text, text


def same(a, b):
    return (
        (a.title, a.bar, a.marks, a.note) == (b.title, b.bar, b.marks, b.note)
        and np.array_equal(a.pixels, b.pixels)
        and [c for _, c in a.outlines] == [c for _, c in b.outlines]
        and all(np.array_equal(m, n) for (m, _), (n, _) in zip(a.outlines, b.outlines))
    )


def counted(explorer, f):
    "The keys of all network evaluations that `f` costs."
    keys, before = [], explorer.before
    explorer.before = keys.append
    try:
        f()
    finally:
        explorer.before = before
    return keys


# ------------------------------------------------------------------------------------------------- the same view is the same picture
@st.composite
def views(draw, places):
    (i, o), width, steps, pick = (
        draw(st.sampled_from(WAYS)),
        draw(st.sampled_from([4, 8, 11])),
        draw(st.integers(1, 3)),
        lambda *v: draw(st.sampled_from(v)),
    )
    return View(
        pick(*places),
        i,
        o,
        draw(st.integers(1 - width, 63)),
        width,
        pick(True, False),
        pick("fast", "one by one"),
        steps,
        draw(st.integers(1, steps)),
        draw(st.integers(0, 3)),
        pick(True, False),
        pick(0, 7),
        pick(0.0, 0.5, 1.2),
        pick(True, False),
        pick(1, 2),
    )


@pytest.fixture(scope="module")
def used(subject):
    return Explorer(subject, megabytes=0.25)  # so little that much is dropped and computed again


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_looked_at_before_changes_nothing(subject, used, data):
    looked = [used.fit(v) for v in data.draw(st.lists(views(used.places), min_size=1, max_size=4))]
    for v in looked:
        used.png(v), used.describe(v)
    fresh = Explorer(subject)
    for v in data.draw(st.permutations(looked))[:2]:
        assert fresh.png(v) == used.png(v)
        assert fresh.describe(v) == used.describe(v)
    assert used.kept.size <= used.kept.limit
    assert used.kept.size == sum(size for _, size in used.kept.values())


def test_the_threshold_moves_the_mark_and_the_verdict_only(explorer, view):
    a, b = (explorer.tiles(replace(view, swept=2, threshold=h)) for h in (0.3, 0.9))
    differ = [t.title for t, u in zip(a, b) if not same(t, u)]
    assert differ == ["map, 2 of 4", "found, truth"]
    assert np.array_equal(a[8].pixels, b[8].pixels)
    assert a[8].marks != b[8].marks
    assert not np.array_equal(a[9].pixels, b[9].pixels)
    assert not counted(explorer, lambda: explorer.png(replace(view, swept=2, threshold=0.7)))


def test_the_step_moves_x_t_and_predicted_only(explorer, view):
    a, b = (explorer.tiles(replace(view, step=k)) for k in (1, 2))
    assert [t.title for t, u in zip(a, b) if not same(t, u)] == ["xₜ: noisy T1", "predicted T1"]


def slices_of(explorer, view):
    "Input, brain and lesion of a view, read a second time."
    k = explorer.index[explorer.places.index(view.place)]
    case = explorer.subject.case
    return (
        resize(case.slices(view.input, [k]), explorer.size),
        resize_labels(to_slices(case.brain, [k]), explorer.size),
        resize_labels(to_slices(case.lesion, [k]), explorer.size),
    )


def own_detector(explorer, view):
    "The detector, found a second time."
    d = load_detector(
        f"{explorer.weights}-{view.input}-{view.target}"
        if explorer.weights in ("mmccd", "masked")
        else explorer.weights
    )
    return d if (d.config.input, d.config.target) == (view.input, view.target) else d.for_pair(view.input, view.target)


@pytest.mark.parametrize(
    ("weights", "input", "target"), [("mmccd", "flair", "t1"), ("mmccd", "t2", "flair"), ("masked", "t1", "t2")]
)
def test_a_full_sweep_is_the_anomaly_map(subject, weights, input, target):
    e = Explorer(subject, weights)
    v = e.first_view(input=input, target=target, seed=3)
    full, (x, brain, _) = replace(v, swept=len(e.masks(v)), by_hand=False), slices_of(e, v)
    d = own_detector(e, v)
    torch.testing.assert_close(
        e.map(full)[None], d.anomaly_map(x, brain, torch.Generator().manual_seed(3)), atol=1e-5, rtol=1e-5
    )
    assert v.threshold == d.threshold
    assert torch.equal(e.slice(input, v)[None], x)
    assert "for a full sweep" in e.describe(v)
    assert "for a full sweep" not in e.describe(full)


@pytest.mark.parametrize(
    "options",
    [{}, dict(normalise_by="healthy_mean"), dict(cls=MaskedUNet), dict(sampler=Sampler("disjoint", n_strips=4, steps=3))],
    ids=["plain", "divide", "masked", "steps"],
)
def test_runs_of_ones_own(options, toy, tmp_path):
    e = Explorer(toy, untrained(tmp_path / "run", **options))
    v = e.first_view(steps=options.get("sampler", SAMPLERS["fast"]).steps)
    assert e.threshold(v) is None
    assert v.threshold == MMCCD.map_top
    assert (v.input, v.target) == ("flair", "t2")
    assert v.width == 4
    full, (x, brain, _) = replace(v, swept=len(e.masks(v)), by_hand=False), slices_of(e, v)
    torch.testing.assert_close(e.map(full)[None], own_detector(e, v).anomaly_map(x, brain), atol=1e-5, rtol=1e-5)
    map_tile = next(t for t in e.tiles(full) if t.title.startswith("map"))
    assert map_tile.bar == (0, 1.5 * MMCCD.map_top, True)
    assert map_tile.marks == ((v.threshold, ""),)
    assert "none is calibrated" in e.describe(full)
    assert e.png(full) == Explorer(toy, tmp_path / "run").png(full)
    other = replace(v, input="t1", target="flair")
    assert e.png(other) != e.png(v)


def test_a_calibrated_run_keeps_its_threshold(toy, tmp_path):
    d = load_detector(untrained(tmp_path / "run"))
    e = Explorer(
        toy, save_detector(calibrate(d, *(slices_of(Explorer(toy, tmp_path / "run"), View(5))[:2])), tmp_path / "run")
    )
    v = e.first_view()
    assert e.threshold(v) == d.threshold == v.threshold
    assert e.threshold(replace(v, input="t1")) is None
    assert (d.threshold, "▲") in e.tiles(v)[8].marks


def test_networks_that_know_one_way_show_one_way(toy, tmp_path):
    e = Explorer(toy, untrained(tmp_path / "run", modalities=(), input="flair", target="t1"))
    assert list(e.ways) == [("flair", "t1")]
    e.png(e.first_view(steps=1))


def test_masks_alone_have_no_steps(subject):
    e = Explorer(subject, "masked")
    v = e.first_view()
    assert len(e.trace(v).steps) == 1
    assert "without diffusion" in e.describe(v)
    assert [t.title for t in e.tiles(v)] == [
        "x: FLAIR",
        "mask",
        "condition",
        "ŷ: T1",
        "x̄ = g(ŷ)",
        "error²",
        "map, this strip",
        "found, truth",
    ]
    full = replace(v, swept=len(e.masks(v)), by_hand=False)
    for steps in (1, 3):
        assert e.png(replace(full, steps=steps, step=1)) == e.png(full)
        assert e.describe(replace(full, steps=steps, step=1)) == e.describe(full)
        assert "for a full sweep" not in e.describe(full)
    assert "for a full sweep" in e.describe(replace(full, width=5))
    assert len(list(ImageSequence.Iterator(Image.open(BytesIO(e.gif(v, "steps")))))) == 1


@pytest.mark.parametrize(("sampler", "width"), [("one by one", 8), ("fast", 11), ("fast", 40), ("paper", 6)])
def test_the_map_so_far_pools_the_first_masks(explorer, view, sampler, width):
    v, (x, brain, _) = (
        replace(view, sampler=sampler, width=width, steps=1, step=1, by_hand=False),
        slices_of(explorer, view),
    )
    together = {("one by one", 8): 1, ("fast", 11): 2, ("fast", 40): 1, ("paper", 6): 1}[sampler, width]
    family = replace(SWEEPS[sampler], width=width, n_strips=together).family(64)
    hiding = torch.stack([m for m in family if (m & brain[0]).any()])
    assert torch.equal(explorer.masks(v), hiding)
    d, errors = own_detector(explorer, v), []
    for k in range(1, min(len(hiding), 3) + 1):
        errors.append(
            d.trace(
                x, hiding[k - 1][None], brain, torch.Generator().manual_seed(0), replace(SWEEPS[sampler], steps=1)
            ).error.detach()
        )
        torch.testing.assert_close(
            explorer.map(replace(v, swept=k)), pool(torch.cat(errors), hiding[:k]), atol=1e-5, rtol=1e-5
        )
    by_hand = replace(v, swept=0, by_hand=True)
    mask = strip(64, v.start, width, v.vertical)
    error = d.trace(
        x, mask[None], brain, torch.Generator().manual_seed(0), replace(SWEEPS[sampler], steps=1)
    ).error.detach()[0]
    torch.testing.assert_close(explorer.map(by_hand), torch.where(mask, error, 0.0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [32, 64])
def test_a_sweep_never_hides_more_than_half_at_once(size):
    "But for a strip that is wider than half by itself; and every pixel has its turn, once a way."
    for width in range(1, size + 1):
        masks = engine.sampler_of(View(80, width=width), size).family(size)
        vertical, horizontal = masks[: len(masks) // 2, 0], masks[len(masks) // 2 :, 0]
        assert (vertical.sum(0) == 1).all()
        assert torch.equal(vertical.mT, horizontal)
        assert vertical[:, 0].sum(1).max() <= max(size // 2, width) and (width == size) == bool(masks.all()), width
        assert engine.sampler_of(View(80, sampler="paper", width=width), size) == replace(
            SWEEPS["paper"], width=width, steps=8
        )


def test_scores_are_those_of_scoring(explorer, view):
    v = replace(view, swept=3)
    _, brain, lesion = slices_of(explorer, v)
    values, truth = explorer.map(v)[None][brain], lesion[brain]
    for h in values.sort().values[[-3, -10, -40, -200]].tolist():  # a pixel on the threshold is not above it
        found = values > h
        assert found.sum() in (2, 9, 39, 199)
        assert explorer.scores(replace(v, threshold=h)) == dict(
            dice=dice(found, truth), precision=precision(found, truth), recall=recall(found, truth)
        )
    assert 0 < explorer.scores(replace(v, threshold=h))["dice"] < 1


@pytest.mark.parametrize(("at", "place"), [(3, 3), (6, 6), (None, 4)])
def test_the_first_view_is_where_the_lesion_is(toy, run, at, place):
    lesion = np.zeros_like(toy.case.lesion)
    if at:
        lesion[5:9, 16:20, at], lesion[5:7, 16:20, at + 1] = True, True
    e = Explorer(subjects.Subject(replace(toy.case, lesion=lesion), None, ""), run)
    assert toy.case.brain.sum((0, 1)).argmax() == 4
    for vertical in (True, False):
        v = e.first_view(vertical=vertical)
        shown = e.slice("lesion" if at else "brain", v)[0]
        line = shown.any(0 if vertical else 1).nonzero().float()
        assert v.place == place
        assert v.width == 4
        assert abs(v.start + 1.5 - line.mean().item()) <= 1
        assert (strip(32, v.start, 4, vertical)[0] & shown).any()
    assert e.first_view(place=5, start=2, width=3) == replace(e.first_view(), place=5, start=2, width=3)


OTHERS = dict(
    place=80,
    input="t2",
    target="t2",
    start=3,
    width=5,
    vertical=False,
    sampler="one by one",
    steps=3,
    step=1,
    swept=3,
    by_hand=True,
    seed=1,
    threshold=0.2,
    twin=True,
    rows=2,
)


@pytest.mark.parametrize("name", [f.name for f in fields(View)])
def test_every_field_matters(explorer, view, name):
    base = replace(view, place=81, swept=2, by_hand=name in ("start", "vertical"))
    other = replace(base, **{name: OTHERS[name]})
    assert other != base
    assert explorer.png(other) != explorer.png(base)
    assert (explorer.describe(other) != explorer.describe(base)) == (name != "rows")
    assert explorer.lines(other) != explorer.lines(base)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(swept=2, by_hand=False, step=1, twin=True, rows=2, seed=5),
        dict(
            input="t2", target="flair", vertical=False, sampler="one by one", width=5, start=-2, swept=1, threshold=0.1
        ),
    ],
)
def test_the_lines_make_the_same_picture(explorer, view, changes, capsys):
    v = replace(view, **changes)
    lines, here = explorer.lines(v), {}
    exec(lines, here)
    assert png_of(eval(lines.splitlines()[-1], here)) == explorer.png(v)
    assert here["view"] == v
    assert capsys.readouterr().out == explorer.describe(v) + "\n"


def test_the_lines_name_file_and_networks(small, toy, run):
    v = small.first_view(steps=2, swept=1)
    here = {}
    exec(small.lines(v), here)
    assert here["explorer"].png(here["view"]) == small.png(v)


def number(text, words):
    return float(re.search(words, text)[1])


@pytest.mark.parametrize(
    "changes",
    [
        dict(step=1, threshold=0.37),
        dict(vertical=False, start=25, width=12, input="t2", target="t1"),
        dict(swept=2, by_hand=False),
    ],
    ids=["upright", "level", "sweep"],
)
def test_the_words_are_true(explorer, view, changes):
    v = replace(view, **changes)
    text, (x, brain, lesion), d = explorer.describe(v), slices_of(explorer, v), own_detector(explorer, v)
    assert text.startswith(f"{v.input.upper()} of {explorer.subject.case.id}, axial slice {v.place}")
    assert f"{v.target.upper()} is predicted" in text
    mask = explorer.masks(v)[v.swept - 1] if v.shown else strip(64, v.start, v.width, v.vertical)
    if v.shown:
        assert f"Mask 2 of {len(explorer.masks(v))} of the sweep 'fast'" in text
        assert number(text, r"hides (\d+)% of the slice") == pytest.approx(100 * mask.float().mean().item(), abs=0.51)
    else:
        assert re.search(rf"{v.width} of 64 {'columns' if v.vertical else 'rows'}, from {v.start} on", text)
    assert number(text, r"with it (\d+)% of the lesion") == pytest.approx(
        100 * (mask & lesion).sum().item() / lesion.sum().item(), abs=0.51
    )
    t = d.trace(x, mask[None], brain, torch.Generator().manual_seed(v.seed), Sampler(steps=2))
    now = t.steps[v.step - 1].t
    assert re.search(rf"Step {v.step} of 2\b.*t = {now} of {len(d.f.abar) - 1}\b", text)
    if v.step == 1:
        assert "x_t, which is pure noise." in text
        assert "deviation" not in text
    else:
        assert "pure noise" not in text
        assert number(text, r"deviation (\d\.\d\d) in it\.") == pytest.approx(
            (1 - d.f.abar[now]).sqrt().item(), abs=0.0051
        )
    under = mask & brain[0]
    assert number(text, r": ([\d.]+) in the lesion") == pytest.approx(
        t.error[0][under & lesion[0]].mean().item(), abs=0.006
    )
    assert number(text, r", ([\d.]+) in the rest") == pytest.approx(
        t.error[0][under & ~lesion[0]].mean().item(), abs=0.006
    )
    for name, score in explorer.scores(v).items():
        assert number(text, rf"(?i){name} ([\d.]+)[,.]") == pytest.approx(score, abs=0.006)
    assert f"threshold {v.threshold:.3g}" in text
    assert f"calibrated: {d.threshold if v.input == d.config.input else 0:.3g}" in text
    assert "64 x 64" in text
    assert (
        f"The map holds {v.swept} of {len(explorer.masks(v))} masks. Above"
        if v.swept
        else "The map holds this strip alone; what lies outside it counts as not found. Above"
    ) in text


@pytest.mark.parametrize("sampler", ["fast", "paper"])
def test_x_t_holds_the_noise_that_is_said(explorer, view, sampler):
    v = replace(view, steps=4, step=4, sampler=sampler)
    t, other = explorer.trace(v), explorer.trace(replace(v, place=80))
    both, noise, abar = t.brain & other.brain, t.steps[0].x_t[t.brain], own_detector(explorer, v).f.abar
    assert torch.equal(t.steps[0].x_t[both], other.steps[0].x_t[both])
    assert not torch.equal(t.x[both], other.x[both])
    assert "pure noise" in explorer.describe(replace(v, step=1))
    assert noise.std() == pytest.approx(1, abs=0.1)
    assert noise.mean() == pytest.approx(0, abs=0.1)
    for k in (2, 3, 4):  # what is not from the picture predicted before
        before, now = t.steps[k - 2], t.steps[k - 1]
        rest = now.x_t[t.brain] - abar[now.t].sqrt() * before.x0[t.brain]
        assert rest.std() / noise.std() == pytest.approx(
            number(explorer.describe(replace(v, step=k)), r"deviation (\d\.\d\d) in it"), rel=0.05
        )


def test_the_words_follow_what_is_shown(explorer, view):
    not_among, twin = "the strip that is shown not among them", "Last stands the same head in health, "
    for changes, said in (
        (dict(), ()),
        (dict(swept=2, by_hand=True), (not_among,)),
        (dict(swept=2, by_hand=False), ()),
        (dict(twin=True), (twin + "FLAIR.",)),
        (dict(twin=True, input="t2"), (twin + "T2.",)),
        (dict(swept=1, twin=True), (not_among, twin + "FLAIR.")),
    ):
        v = replace(view, **changes)
        text, tiles = explorer.describe(v), explorer.tiles(v)
        for words in (not_among, twin):
            assert (words in text) == any(words in s for s in said), text
        assert all(s in text for s in said)
        assert (twin in text) == (tiles[-1].title == "healthy twin") == v.twin
        assert not v.twin or text.endswith(said[-1])
        if v.swept:
            assert (not_among in text) == (
                not any(torch.equal(explorer.trace(v, v.shown).mask[0], m) for m in explorer.masks(v)[: v.swept])
            )


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [("glioma", "lesion", "artefact"), ("artefact", "artefact", "lesion"), ("", "lesion", "artefact")],
)
def test_a_fault_of_the_scanner_is_no_lesion(explorer, view, kind, right, wrong):
    e = Explorer(replace(explorer.subject, case=replace(explorer.subject.case, id="x"), kind=kind))
    text, last = e.describe(view), e.tiles(view)[-1]
    assert f"% of the {right}." in text
    assert f" in the {right}, " in text
    assert wrong not in text
    assert last.note == ("green found, red false", f"blue {right}, Dice {e.scores(view)['dice']:.2f}")


def test_a_brain_without_lesion_has_false_alarms_only(explorer, view):
    case = explorer.subject.case
    e, v = (
        Explorer(replace(explorer.subject, case=replace(case, lesion=np.zeros_like(case.lesion)))),
        replace(view, swept=4, by_hand=False, threshold=0.3),
    )
    marked = e.map(v)[slices_of(e, v)[1][0]] > v.threshold
    share, last = marked.float().mean().item(), e.tiles(v)[-1]
    assert 0 < share < 0.5
    assert e.scores(v) == {"false positives": pytest.approx(share)}
    assert number(e.describe(v), r"\): (\d+\.\d\d)% of the brain, all false alarms") == pytest.approx(
        100 * share, abs=0.0051
    )
    assert "Dice" not in e.describe(v)
    assert "lesion" not in e.describe(v)
    assert (last.title, last.note[0]) == ("found, truth", "red: false alarms")
    assert number(last.note[1], r"^(\d+\.\d\d)% of the brain$") == pytest.approx(100 * share, abs=0.0051)
    found = e.map(v)[0].numpy()[e.read["box"]] > v.threshold
    for name in PAINTS:
        assert np.array_equal(
            (last.pixels > pure(name) - SHADES) & (last.pixels <= pure(name)), found & (name == "wrong")
        ), name
    p = Panel(e, v)
    in_line(p)
    p.worker.pool.shutdown()


def test_without_truth_green_is_above_the_threshold(explorer, view):
    e, v = (
        Explorer(replace(explorer.subject, case=replace(explorer.subject.case, lesion=None))),
        replace(view, swept=2, threshold=0.3),
    )
    last, found = e.tiles(v)[-1], e.map(v)[0].numpy()[e.read["box"]] > 0.3
    assert (last.title, last.note, last.outlines) == (
        "found",
        ("green: above 0.3", "truth not known"),
        (),
    )
    assert found.any()
    assert np.array_equal((last.pixels > pure("found") - SHADES) & (last.pixels <= pure("found")), found)
    assert "the truth is not known" in e.describe(v)
    assert "Dice" not in e.describe(v)
    assert "lesion" not in e.describe(v)


def test_words_where_no_brain_is_hidden(explorer, view):
    text = explorer.describe(replace(view, start=-7))
    assert "No brain is hidden" in text
    assert "with it 0% of the lesion" in text
    assert "Hidden: 1 of 64 columns, from 0 on" in text


def test_the_twin_wears_the_patients_brightness(explorer, view):
    a, b = explorer.slice(view.input, view), explorer.slice("twin", view)
    _, brain, lesion = slices_of(explorer, view)
    far = brain[0] & ~torch.nn.functional.max_pool2d(lesion.float(), 21, 1, 10)[0].bool()
    assert (a - b)[far].abs().median() < 0.15 < (a - b)[lesion[0]].abs().median()
    assert b[~brain[0]].mean() < -0.8
    assert explorer.tiles(replace(view, twin=True))[-1].title == "healthy twin"
    assert len(explorer.tiles(view)) == 10


# ------------------------------------------------------------------------------------------------- what is kept
def test_only_what_is_needed_is_computed(subject):
    e = Explorer(subject)
    v = e.first_view(steps=3)

    def look(**changes):
        return counted(
            e,
            lambda: (e.png(replace(v, **changes)), e.describe(replace(v, **changes)), e.scores(replace(v, **changes))),
        )

    assert look() == [cycle_key(v, 0)] * 3
    assert needed(v) == [cycle_key(v, 0)]
    for changes in ({}, dict(step=1), dict(threshold=0.1), dict(twin=True), dict(rows=2)):
        assert look(**changes) == []
    assert look(start=v.start + 1) == [cycle_key(replace(v, start=v.start + 1), 0)] * 3
    swept = replace(v, swept=2, by_hand=False)
    assert sorted(look(swept=2, by_hand=False)) == sorted(needed(swept) * 3)
    assert len(needed(swept)) == 2
    assert look(swept=3, by_hand=False) == [cycle_key(v, 3)] * 3
    assert look(swept=1, by_hand=False) == []
    both = replace(swept, by_hand=True)  # the strip in the pictures, the sweep in the map
    assert set(needed(both)) == {cycle_key(v, k) for k in (0, 1, 2)}
    assert look(swept=2) == []
    gif = counted(e, lambda: e.gif(v, "strips"))
    assert set(gif) == {cycle_key(v, len(e.masks(v)))}
    assert not counted(e, lambda: e.gif(v, "steps"))


def test_a_strip_put_down_by_hand_knows_no_sweep(subject):
    e = Explorer(subject)
    v = e.first_view(steps=2)
    other, paper = replace(v, sampler="one by one"), replace(v, sampler="paper")
    assert len(counted(e, lambda: e.png(v))) == 2
    assert not counted(e, lambda: (e.png(other), e.describe(other), e.scores(other)))
    assert e.png(other) == Explorer(subject).png(other)  # what it would have been
    assert cycle_key(v, 1) != cycle_key(other, 1)
    assert len(counted(e, lambda: e.png(replace(other, swept=1, by_hand=False)))) == 2
    assert len(counted(e, lambda: e.png(paper))) == 2
    assert e.png(paper) == Explorer(subject).png(paper)
    assert [s.t for s in e.trace(paper).steps] != [s.t for s in e.trace(v).steps]


@given(
    limit=st.integers(1, 60),
    asked=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 20), st.booleans()), max_size=30),
)
def test_kept_keeps_the_latest(limit, asked):
    kept, book = LRUCache(limit), OrderedDict()
    for key, size, fetch in asked:
        if fetch and key in book:
            book.move_to_end(key)
            assert kept.fetch(key) == book[key][0]
        else:
            book.pop(key, None)
            book[key] = (key, size), size
            while sum(s for _, s in book.values()) > limit and len(book) > 1:
                book.popitem(last=False)
            assert kept.keep(key, (key, size), size) == (key, size)
        assert list(kept) == list(book)
        assert kept.size == sum(s for _, s in book.values())
        assert kept.size <= limit or len(kept) == 1
    kept.clear()
    assert not kept
    assert kept.size == 0


def held(e):
    return {k: v for store in vars(e).values() if isinstance(store, LRUCache) for k, v in store.items()}


def bytes_held(e):
    return sum(store.size for store in vars(e).values() if isinstance(store, LRUCache)), sum(
        store.limit for store in vars(e).values() if isinstance(store, LRUCache)
    )


def test_errors_of_a_long_sweep_survive_its_traces(toy, run):
    e = Explorer(toy, run, megabytes=1)
    v = e.first_view(steps=16, sampler="one by one", width=2, swept=1)
    n = len(e.masks(v))
    assert n * e.trace(v, 1).x.nbytes * 37 > 2 * 2**20, "the sweep must not fit"
    e.png(replace(v, swept=n - 2))
    assert cycle_key(v, 1) not in held(e)
    for k in (n - 1, n):
        assert set(counted(e, lambda: e.png(replace(v, swept=k)))) == {cycle_key(v, k)}, (
            "a step of the sweep computes one cycle"
        )
    size, limit = bytes_held(e)
    assert size <= limit <= 2**20


def test_what_is_kept_is_counted_as_large_as_it_is(small):
    v = small.first_view(steps=4)
    t, (_, size) = small.trace(v), held(small)[cycle_key(v, 0)]
    tensors = {
        p.data_ptr(): p.nbytes
        for p in [t.x, t.brain, t.mask, t.cond, t.y, t.reconstruction, *(p for s in t.steps for p in s[1:])]
    }
    assert sum(tensors.values()) <= size


def test_another_subject_leaves_nothing_of_the_first(explorer, subject, toy, run):
    e = Explorer(subject, run)
    e.png(e.first_view(steps=2))
    e.meet(toy)
    v = e.first_view(steps=2)
    assert e.png(v) == Explorer(toy, run).png(v)
    e.use("cpu")
    assert not held(e)
    assert e.png(v) == Explorer(toy, run).png(v)


# ------------------------------------------------------------------------------------------------- pictures
@given(
    a=arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)),
    b=arrays(np.float32, (2, 3), elements=st.floats(-9, 9, width=32)),
    hot=st.booleans(),
)
def test_a_value_has_one_colour(a, b, hot):
    one, both = shade(a, -1, 1, hot), shade(np.concatenate([a, b]), -1, 1, hot)
    assert np.array_equal(one, both[:2])
    assert one.min() >= (GREYS if hot else 0)
    assert one.max() < (GREYS + HOT if hot else GREYS)
    assert np.array_equal(one, shade(a.clip(-1, 1), -1, 1, hot))
    order = a.ravel().argsort()
    assert (np.diff(one.ravel()[order].astype(int)) >= 0).all()


def test_the_palette():
    assert PALETTE.shape == (256, 3)
    assert len(PALETTE) >= GREYS + HOT + SHADES * len(PAINTS)
    assert np.array_equal(PALETTE[0], [0, 0, 0])
    assert np.array_equal(PALETTE[GREYS - 1], [255] * 3)
    assert all(len(set(c)) == 1 for c in PALETTE[:GREYS].tolist())
    light = PALETTE[GREYS : GREYS + HOT] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(light) > 0).all()  # heat reads in grey too
    okabe_ito = {"e69f00", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "cc79a7"}
    colours = [bytes(PALETTE[pure(name)].tolist()).hex() for name in PAINTS]
    assert set(colours) <= okabe_ito
    assert len(set(colours)) == len(PAINTS)


def test_scales_belong_to_the_detector(explorer, view):
    def bars(**changes):
        return [t.bar for t in explorer.tiles(replace(view, **changes))]

    assert (
        bars()
        == bars(place=80)
        == bars(seed=4, start=3)
        == bars(threshold=0.1)
        == bars(swept=2)
        == bars(steps=1, step=1)
    )
    error = next(t for t in explorer.tiles(view) if t.title == "error²")
    t, box = explorer.trace(view), explorer.read["box"]
    assert np.array_equal(
        error.pixels,
        shade(torch.where(t.mask & t.brain, t.error, 0.0)[0, 0].numpy()[box], 0, explorer.tiles(view)[7].bar[1], True),
    )
    assert error.bar[1] == pytest.approx(1.5 * load_detector("mmccd-flair-t1").threshold, rel=0.05)


@pytest.mark.parametrize("h", [0.003, 0.0004, 40.0])
def test_every_threshold_has_a_scale(toy, tmp_path, h):
    d = load_detector(untrained(tmp_path / "run"))
    d.calibration = {"threshold": h}
    e = Explorer(toy, save_detector(d, tmp_path / "run"))
    v = e.first_view(steps=1)
    high = e.tiles(v)[8].bar[1]
    assert v.threshold == h < high <= 1.6 * h
    e.png(v)


@given(
    grey=arrays(np.uint8, (4, 5), elements=st.integers(0, GREYS - 1)),
    mask=arrays(bool, (4, 5)),
    other=arrays(bool, (4, 5)),
)
def test_paint_lies_on_the_masks_only(grey, mask, other):
    out = paint_over(grey, hidden=mask, wrong=other & ~mask)
    assert out.dtype == np.uint8
    assert np.array_equal(out[~(mask | other)], grey[~(mask | other)])
    for name, where in (("hidden", mask), ("wrong", other & ~mask)):
        assert ((out[where] > pure(name) - SHADES) & (out[where] < pure(name))).all()
    order = grey[mask].argsort()
    assert (np.diff(out[mask][order].astype(int)) >= 0).all()  # what lies below shows through


@given(mask=arrays(bool, (7, 8)), n=st.integers(1, 3))
def test_the_edge_is_the_inner_rim(mask, n):
    big = mask.repeat(4, 0).repeat(4, 1)

    def at(r, c):
        return 0 <= r < big.shape[0] and 0 <= c < big.shape[1] and big[r, c]

    wanted = [
        [
            at(r, c) and not (at(r - n, c) and at(r + n, c) and at(r, c - n) and at(r, c + n))
            for c in range(big.shape[1])
        ]
        for r in range(big.shape[0])
    ]
    assert np.array_equal(edge(big, n), wanted)


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("rows", [1, 2])
def test_every_tile_has_its_place(explorer, view, n, rows):
    tiles = (explorer.tiles(replace(view, twin=True)) * 2)[:n]
    image = draw(tiles, rows)
    across = -(-n // rows)
    w, h = image.width // across, image.height // rows
    assert (w * across, h * rows) == image.size
    scale = (w - GAP) / tiles[0].pixels.shape[1]
    assert scale == int(scale)
    assert image.getpalette() == PALETTE.ravel().tolist()
    pixels = np.array(image)

    def fits(k):
        return max(canvas.word(t.title, k).shape[1] for t in tiles) <= w - GAP // 2

    letters = max(k for k in range(1, TITLE + 1) if fits(k))  # the largest in which all titles fit
    for k in range(across * rows):
        there = pixels[(r := k // across * h) : r + h, (c := k % across * w) : c + w]
        assert np.array_equal(there, draw_tile(tiles[k], int(scale), letters) if k < n else np.full((h, w), GREYS - 1))
    assert n < 3 or abs(draw(tiles, rows, 1600).width - 1600) <= across * tiles[0].pixels.shape[1] / 2


def letters_of(page, tile, n, k):
    "Pixels of the title of the k-th of n tiles side by side."
    here = page[2:, (w := page.shape[1] // n) * k + GAP // 2 : w * (k + 1)]
    for size in range(TITLE, 0, -1):
        ink = canvas.word(tile.title, size)
        if (
            ink.shape[1] <= here.shape[1]
            and np.array_equal(here[: ink.shape[0], : ink.shape[1]], ink)
            and (here[: canvas.HEAD - 2, ink.shape[1] :] == GREYS - 1).all()
        ):
            return size


@pytest.mark.parametrize(("rows", "least"), [(1, 17), (2, 20)])
@pytest.mark.parametrize("m", ["FLAIR", "T1CE"])
def test_letters_stay_on_their_tile(explorer, view, rows, least, m):
    "Whole, of one size in a row, and not tiny."
    shape = explorer.tiles(view)[0].pixels.shape
    titles = [
        f"x: {m}",
        "mask",
        "condition",
        f"xₜ: noisy {m}",
        f"predicted {m}",
        f"ŷ: {m}",
        "x̄ = g(ŷ)",
        "error²",
        "map, 128 of 128",
        "found, truth",
        "healthy twin",
    ]
    tiles = [Tile(t, np.zeros(shape, np.uint8), note=("green: above 0.0000123", "truth not known")) for t in titles]
    for n in (8, 10, 11):
        page, across = np.array(draw(tiles[:n], rows)), -(-n // rows)
        for r in range(rows):
            line = page[(h := page.shape[0] // rows) * r : h * (r + 1)]
            sizes = {
                letters_of(line, tile, across, k)
                for k, tile in enumerate(tiles[across * r : across * (r + 1)][: n - across * r])
            }
            assert len(sizes) == 1 and None not in sizes, (n, sizes)
            if r:
                assert sizes == above
            above = sizes
        w = page.shape[1] // across
        assert min(sizes) >= least
        assert all((page[canvas.HEAD : h, w * k - GAP // 2 : w * k] == GREYS - 1).all() for k in range(1, across + 1))


@pytest.mark.parametrize(
    "notes",
    [
        ("green found, red false", "blue artefact, Dice 0.16"),
        ("red: false alarms", "100.00% of the brain"),
        ("green: above 1.11", "truth not known"),
        ("orange: hidden",),
    ],
    ids=lambda n: n[-1],
)
@pytest.mark.parametrize("scale", [4, 5])
def test_notes_stand_whole_and_apart(explorer, view, notes, scale):
    h, w = explorer.tiles(view)[0].pixels.shape
    below = draw_tile(Tile("found", np.zeros((h, w), np.uint8), note=notes), scale)[canvas.HEAD + h * scale :]
    dark = (below < GREYS - 1).any(1)
    lines = [fitting(line, w * scale, canvas.NOTE) for line in notes]
    assert (np.diff(np.append(dark, False).astype(int)) == -1).sum() >= len(notes)
    assert not dark[-1]
    assert not dark[0]
    for k, ink in enumerate(lines):
        assert np.array_equal(below[4 + 24 * k : 4 + 24 * k + ink.shape[0], GAP // 2 : GAP // 2 + ink.shape[1]], ink)


@pytest.mark.parametrize("scale", range(1, 8))
def test_the_ends_of_a_scale_stand_clear(explorer, view, scale):
    "Wherever the triangle and the line of the threshold stand."
    h, w = explorer.tiles(view)[0].pixels.shape
    for low, high, hot in ((0, 1.67, True), (-2.0, 2.0, False), (0, 188.0, True)):

        def page(*marks):
            return draw_tile(Tile("map", np.zeros((h, w), np.uint8), (), (low, high, hot), marks), scale)[
                canvas.HEAD + h * scale :
            ]

        plain, at = page(), lambda share: low + share * (high - low)
        figures, ends = (
            plain < GREYS - 1,
            (canvas.word(f"{low:g}".replace("-", "−"), canvas.NOTE), canvas.word(f"{high:.3g}", canvas.NOTE)),
        )
        figures[:22] = False  # the bar, of 14 pixels
        (top, *_, last), columns = np.flatnonzero(figures.any(1)), np.flatnonzero(figures.any(0))
        assert last < len(plain) - 1
        if scale > 1:
            assert (
                columns[0] >= GAP // 2
                and columns[-1] < w * scale + GAP // 2
                and figures.sum() == sum((e < GREYS - 1).sum() for e in ends)
            ), "both whole, beside each other, on the tile"
        for share in np.linspace(-0.1, 1.1, 25):
            for marks in (
                ((at(share), "▲"),),
                ((at(share), ""),),
                ((at(0.5), ""), (at(share), "▲")),
                ((at(share), ""), (at(share), "▲")),
            ):
                rows = np.flatnonzero((page(*marks) != plain).any(1))
                assert len(rows) and rows[-1] < top, "a mark reaches down to the figures"
        sign = page((at(0.5), "▲"))[22:] != plain[22:]
        assert sign.sum() == (canvas.word("▲", 15) < GREYS - 1).sum(), "the triangle is whole, and below the bar"


def test_below_zero_has_a_true_minus(monkeypatch):
    said, word = [], canvas.word
    monkeypatch.setattr(ex, "word", lambda text, *size: (said.append(text), word(text, *size))[1])
    draw_tile(Tile("xₜ", np.zeros((9, 60), np.uint8), (), (-2.0, 2.0, False)), 1)
    assert said == ["xₜ", "−2", "2"]


@pytest.mark.parametrize(
    "changes",
    [{}, dict(swept=2, by_hand=False, step=1, threshold=0.3), dict(vertical=False, start=20, swept=3, threshold=0.3)],
    ids=["strip", "sweep", "both"],
)
def test_every_picture_shows_what_its_title_says(explorer, view, changes):
    v = replace(view, **changes)
    tiles, t, (x, brain, lesion), box, high = (
        explorer.tiles(v),
        explorer.trace(v, v.shown),
        slices_of(explorer, v),
        explorer.read["box"],
        render.map_scale(explorer, v),
    )

    def cut(p):
        return np.asarray(p.reshape(64, 64))[box]

    rows, columns = (
        explorer.read["brain"].any(0)[0].any(k).nonzero().flatten() for k in (1, 0)
    )  # the brain of all slices, and a pixel around it
    assert [(s.start, s.stop) for s in box] == [(int(r[0]) - 1, int(r[-1]) + 2) for r in (rows, columns)]
    mask, found = cut(t.mask), cut(explorer.map(v)) > v.threshold
    grey = shade(cut(torch.where(brain, x, -1.0)), -1, 1)
    pixels = {
        "x: FLAIR": grey,
        "mask": paint_over(grey, hidden=mask),
        "condition": shade(cut(t.cond), -1, 1),
        "xₜ: noisy T1": shade(cut(t.steps[v.step - 1].x_t), -2, 2),
        "predicted T1": shade(cut(t.steps[v.step - 1].x0), -1, 1),
        "ŷ: T1": shade(cut(t.y), -1, 1),
        "x̄ = g(ŷ)": shade(cut(t.reconstruction), -1, 1),
        "error²": shade(np.where(mask & cut(brain), cut(t.error), 0), 0, high, True),
        f"map, {v.swept} of 4" if v.swept else "map, this strip": shade(cut(explorer.map(v)), 0, high, True),
        "found, truth": paint_over(grey, found=found & cut(lesion), wrong=found & ~cut(lesion)),
    }
    assert [tile.title for tile in tiles] == list(pixels)
    for tile in tiles:
        assert np.array_equal(tile.pixels, pixels[tile.title]), tile.title
        truth, rim = (
            tile.title == "found, truth",
            tile.title not in ("x: FLAIR", "mask", "found, truth") and not tile.title.startswith("map"),
        )
        assert len(tile.outlines) == truth + rim
        for line, colour in tile.outlines:
            assert np.array_equal(line, cut(lesion) if truth else mask)
            assert colour == pure("truth" if truth else "hidden")
        assert (
            tile.bar[:2]
            == ((-2, 2) if "noisy" in tile.title else (0, high) if tile.title[:3] in ("err", "map") else (-1, 1))
            if tile.bar
            else tile.note
        )
        assert tile.marks == (((v.threshold, ""), (explorer.threshold(v), "▲")) if tile.title.startswith("map") else ())
    assert (found & cut(lesion)).any() or not v.swept


def test_lines_lie_on_the_picture_and_marks_on_the_bar():
    h, w, scale, value = 12, 30, 6, 0.7
    line = np.zeros((h, w), bool)
    line[3:8, 5:20] = True
    page = draw_tile(
        Tile("x", np.zeros((h, w), np.uint8), ((line, pure("hidden")),), (0, 2, True), ((value, ""), (1.0, "▲"))), scale
    )
    picture, below = (
        page[canvas.HEAD : canvas.HEAD + h * scale, GAP // 2 : -GAP // 2],
        page[canvas.HEAD + h * scale :, GAP // 2 : -GAP // 2],
    )
    assert any(
        np.array_equal(picture == pure("hidden"), edge(line.repeat(scale, 0).repeat(scale, 1), n))
        for n in range(2, scale + 1)
    )
    at = np.flatnonzero((below == pure("found")).any(0))
    assert abs(at.mean() - w * scale * value / 2) < 3
    assert (below[:, at] == pure("found")).sum(0).min() > 14
    bar = below[10, : at[0]]
    assert bar[0] == GREYS
    assert np.array_equal(bar, shade(np.linspace(0, 2, w * scale), 0, 2, True)[: at[0]])
    sign = np.flatnonzero((below[16:] < GREYS // 2).any(0) & (np.abs(np.arange(w * scale) - w * scale / 2) < 20))
    assert abs(sign.mean() - w * scale / 2) < 3


def test_png_is_the_picture(explorer, view):
    image = explorer.image(view)
    again = Image.open(BytesIO(explorer.png(view)))
    assert again.mode == "P"
    assert np.array_equal(np.array(again), np.array(image))
    assert np.array_equal(np.array(again.convert("RGB")), PALETTE[np.array(image)])


@pytest.mark.parametrize("over", ["strips", "steps"])
def test_gif_moves(explorer, view, over):
    v = replace(view, steps=3, step=2, threshold=0.5)
    frames = [
        (f.info["duration"], f.info.get("loop"), np.array(f.convert("RGB")))
        for f in ImageSequence.Iterator(Image.open(BytesIO(explorer.gif(v, over))))
    ]
    n = len(explorer.masks(v)) if over == "strips" else 3
    assert [d for d, *_ in frames] == [400] * (n - 1) + [1200]
    assert frames[0][1] == 0
    wanted = [replace(v, swept=k, by_hand=False) if over == "strips" else replace(v, step=k) for k in range(1, n + 1)]
    for (*_, got), w in zip(frames, wanted):
        assert np.array_equal(got, PALETTE[np.array(explorer.image(w))])


# ------------------------------------------------------------------------------------------------- the newest wish only
def test_the_newest_wish_only():
    begun, go, done = threading.Event(), threading.Event(), []

    def work(wish):
        done.append(wish)
        begun.set()
        assert go.wait(30)
        if wish == "first":
            raise RuntimeError("it does not stop the worker")

    worker = Latest(work)
    first = worker.ask("first")
    assert begun.wait(30)
    for k in range(10):
        worker.ask(k)
    go.set()
    worker.wait()
    assert done == ["first", 9]
    assert isinstance(first.exception(), RuntimeError)
    worker.ask("after").result()
    assert done[-1] == "after"
    worker.pool.shutdown()


def test_wanted_by(explorer, view):
    loader = object()

    def wish(loader=loader, device="cpu", keep="", **changes):
        return worker.RenderRequest(loader, replace(view, **changes), device, (view.input, view.target), keep)

    old, key = wish(swept=2), cycle_key(view, 2)

    def wants(new, old=old, key=key):
        return wanted_by(new, old, key, explorer.fit)

    assert wants(old, key="whatever")
    assert wants(wish(swept=3))
    assert wants(wish(swept=2, threshold=0.1))
    assert wants(wish(keep="strips"))
    assert wants(wish(seed=9), wish(keep="png"))
    assert wants(wish(swept=999))
    assert wants(wish(place=999, swept=3), key=cycle_key(replace(view, place=81), 2))
    for new in (
        wish(swept=1),
        wish(swept=3, seed=9),
        wish(object(), swept=3),
        wish(device="cuda", swept=3),
        wish(keep="png", start=3),
    ):
        assert not wants(new)


# ------------------------------------------------------------------------------------------------- controls
@pytest.fixture
def panel(subject, view, tmp_path):
    p = Panel(Explorer(subject), view, tmp_path / "out")
    yield p
    p.worker.pool.shutdown()


@pytest.fixture
def quick(run, toy, tmp_path):
    "On a small network, where 100 steps take no time."
    e = Explorer(toy, run)
    p = Panel(e, e.first_view(steps=2), tmp_path / "out")
    yield p
    p.worker.pool.shutdown()


def put(panel, **values):
    for name, value in values.items():
        panel.knobs[name].value = value
    panel.worker.wait()


def click(panel, name):
    panel.knobs[name].click()
    panel.worker.wait()


def said(panel):
    return html.unescape(re.sub("<[^>]*>", "", panel.knobs["message"].value)).strip()


def picture(panel):
    return bytes(panel.knobs["picture"].value)


def in_line(panel):
    "Do controls, picture and words say the same?"
    k, v, e = panel.knobs, panel.seen, panel.explorer
    assert {n: k[n].value for n in OTHERS if n in k} == {n: getattr(v, n) for n in OTHERS if n in k}
    assert picture(panel) == e.png(v)
    assert k["text"].value == html.escape(e.describe(v))
    assert k["kind"].value == (e.subject.kind or "from files")
    s = e.scores(v)
    assert [float(n) for n in re.findall(r"\d+\.\d\d", k["scores"].value)] == (
        []
        if s is None
        else [pytest.approx(100 * s["false positives"], abs=0.0051)]
        if "false positives" in s
        else [pytest.approx(x, abs=0.006) for x in s.values()]
    )
    assert k["swept"].max == len(e.masks(v))
    assert k["step"].max == len(e.trace(v, v.shown).steps)
    assert (k["place"].min, k["place"].max) == (e.places[0], e.places[-1])
    assert k["subject_seed"].disabled == (not e.subject.kind)
    assert k["twin"].disabled == (e.subject.twin is None)
    assert k["start"].min == 1 - v.width
    assert set(k["target"].options) == {t for i, t in e.ways if i == v.input}
    assert set(k["input"].options) <= set(e.subject.case.volumes)


@pytest.mark.parametrize("name", [n for n in OTHERS if n != "by_hand"])
def test_every_control_changes_the_picture(panel, explorer, name):
    if name in ("sampler", "swept"):
        put(panel, swept=2)
    before = picture(panel)
    put(panel, **{name: OTHERS[name]})
    assert getattr(panel.seen, name) == OTHERS[name]
    assert picture(panel) != before
    assert not said(panel)
    in_line(panel)
    assert picture(panel) == explorer.png(panel.seen)


def test_the_controls_begin_where_the_view_is(panel, view):
    assert panel.seen == view
    assert panel.view() == view
    in_line(panel)


def test_hand_and_sweep_take_turns(panel, view):
    put(panel, swept=2)
    assert panel.seen == replace(view, swept=2, by_hand=False)
    put(panel, start=3)
    assert panel.seen == replace(view, swept=2, by_hand=True, start=3)  # the strip in the pictures; the map stays
    put(panel, step=1)
    assert panel.seen.by_hand
    put(panel, swept=3)
    assert not panel.seen.by_hand
    put(panel, swept=0)
    assert panel.seen == replace(view, start=3, step=1)
    for name, value in (("width", 5), ("vertical", False)):
        put(panel, swept=2)
        put(panel, **{name: value})
        assert panel.seen.by_hand
        assert panel.seen.swept == 2
    in_line(panel)


def test_a_sampler_brings_its_steps(quick):
    for name in ("paper", "one by one", "fast"):
        put(quick, sampler=name)
        assert quick.seen.sampler == name
        assert quick.seen.steps == quick.seen.step == SWEEPS[name].steps
        in_line(quick)
    put(quick, steps=3)
    assert (quick.seen.steps, quick.seen.step) == (3, 3)


def test_another_way_brings_its_threshold(panel, explorer):
    put(panel, threshold=0.2)
    for name, value in (("target", "t2"), ("input", "t1"), ("target", "flair"), ("input", "flair")):
        put(panel, **{name: value})
        in_line(panel)
        assert panel.seen.input != panel.seen.target
        assert panel.seen.threshold == explorer.threshold(panel.seen)
    put(panel, threshold=0.3)
    click(panel, "calibrated")
    assert panel.seen.threshold == explorer.threshold(panel.seen)
    assert not panel.knobs["calibrated"].disabled
    assert f"{panel.seen.threshold:.2f}" in panel.knobs["calibrated"].description


def test_without_calibration_there_is_nothing_to_return_to(quick):
    assert quick.knobs["calibrated"].disabled
    assert "not calibrated" in quick.knobs["calibrated"].description
    click(quick, "calibrated")
    in_line(quick)


def test_another_subject_begins_anew(panel, subject, monkeypatch):
    other = phantom_subject("ms", 5, slices=range(75, 77))
    monkeypatch.setattr(
        ex, "phantom_subject", lambda kind, seed, *rest: other if (kind, seed) == ("ms", 404) else subject
    )
    put(panel, step=1, start=-3, swept=2, rows=2, input="t2")
    put(panel, threshold=0.1)
    put(panel, kind="ms")
    fresh = Explorer(other)
    first = fresh.first_view(input="t2", target=panel.seen.target, steps=2, step=1, rows=2)
    assert panel.explorer.subject is other
    assert panel.seen == replace(first, swept=2, by_hand=False)
    assert first.place in (75, 76)
    assert panel.seen.threshold == fresh.threshold(first)
    assert panel.seen.start == first.start != -3
    assert picture(panel) == fresh.png(panel.seen)
    in_line(panel)
    put(panel, start=2)
    put(panel, kind="glioma")
    assert panel.seen.by_hand
    assert panel.seen.swept == 2
    assert panel.seen.start != 2
    in_line(panel)


def test_the_map_of_another_subject_is_as_full_as_it_can_be(quick, toy):
    "A smaller head needs fewer masks."
    lesion, far = np.zeros_like(toy.case.lesion), np.arange(toy.case.brain.shape[0])[:, None, None] < 12

    def small():
        return subjects.Subject(
            replace(
                toy.case,
                volumes={m: np.where(far, v, 0) for m, v in toy.case.volumes.items()},
                brain=toy.case.brain & far,
                lesion=lesion,
            ),
            None,
            "",
        )

    put(quick, sampler="one by one", steps=1)
    put(quick, swept=quick.knobs["swept"].max)
    full = quick.seen.swept
    panel.set_subject(quick, small)
    quick.worker.wait()
    assert 0 < quick.seen.swept == len(quick.explorer.masks(quick.seen)) < full
    assert not quick.seen.by_hand
    in_line(quick)
    put(quick, swept=0)
    panel.set_subject(quick, lambda: toy)
    quick.worker.wait()
    assert quick.explorer.subject is toy
    assert quick.seen.swept == 0
    assert quick.seen.by_hand
    in_line(quick)


def held_up(panel, *acts):
    "Do things while the worker is busy with something else."
    begun, go = threading.Event(), threading.Event()
    panel.worker.pool.submit(lambda: (begun.set(), go.wait(30)))
    assert begun.wait(30)
    for act in acts:
        act()
    go.set()
    panel.worker.wait()


def test_another_subject_while_the_way_is_half_set(panel, subject):
    "The controls say T1 to T1 for a moment, since only one of them can be moved at a time."
    other = replace(subject, kind="ms")
    assert panel.seen.target == "t1"
    held_up(
        panel, lambda: setattr(panel.knobs["input"], "value", "t1"), lambda: panel.set_subject(panel, lambda: other)
    )
    assert not said(panel)
    assert panel.explorer.subject is other
    assert panel.seen.input == "t1" != panel.seen.target
    in_line(panel)


def test_from_files_says_what_to_do(panel, quick, subject):
    for p, kind in ((panel, "glioma"), (quick, "from files")):
        before, seen, asked = picture(p), p.seen, p.worker.newest
        put(p, kind="from files")
        if p is quick:
            panel.phantom_wanted(p, None)  # its knob stands there already
        assert p.knobs["kind"].value == kind
        assert p.worker.newest is asked
        assert p.seen == seen
        assert picture(p) == before
        one_sentence(said(p), "path", "upload")
        in_line(p)
        put(p, start=4)
        assert not said(p)
        assert p.seen.start == 4


def test_a_seed_is_for_made_up_heads(quick, subject, toy):
    assert quick.knobs["subject_seed"].disabled  # its subject is from files
    for loader, disabled in ((lambda: subject, False), (lambda: toy, True)):
        panel.set_subject(quick, loader)
        quick.worker.wait()
        assert quick.knobs["subject_seed"].disabled == disabled
        in_line(quick)


@pytest.mark.parametrize("weights", ["masked", "mmccd"])
def test_steps_can_be_moved_where_there_are_some(subject, weights):
    e = Explorer(subject, weights)
    p = Panel(e, e.first_view(steps=1, step=1))

    def idle():
        return [p.knobs[n].disabled for n in ("steps", "step", "play_steps")]

    assert idle() == [weights == "masked"] * 3
    in_line(p)
    put(p, sampler="one by one", swept=1)  # which brings its steps
    assert idle() == [weights == "masked"] * 3
    assert p.knobs["step"].max == (1 if weights == "masked" else 8)
    assert not said(p)
    p.worker.pool.shutdown()


def test_what_is_out_of_range_is_shown_all_the_same(explorer, view):
    for v in (replace(view, width=40), replace(view, threshold=7.0), replace(view, steps=120, step=110)):
        p = Panel(explorer, explorer.fit(v))
        in_line(p)
        p.worker.pool.shutdown()


def test_play_over_strips_advances_on_slow_machines(quick, monkeypatch):
    "A tick comes with every evaluation of the network, long before a cycle is done."
    k, shown, ticks = quick.knobs, [], []
    put(quick, sampler="one by one", steps=3)
    n = k["swept"].max
    assert n > 6
    show = quick.show
    monkeypatch.setattr(quick, "show", lambda wish, view, *rest: (shown.append(view.swept), show(wish, view, *rest)))

    def tick(*_):
        ticks.append(k["swept"].value)
        if k["swept"].value < n:
            k["swept"].value += 1

    hook = quick.explorer.detector(quick.seen).f.register_forward_pre_hook(tick)
    k["swept"].value = 1
    while shown[-1:] != [n]:
        quick.worker.wait()
    hook.remove()
    assert len(ticks) == 3 * n
    assert shown == sorted(shown)
    assert len(shown) >= 3
    assert shown[0] == 1
    in_line(quick)


@pytest.mark.parametrize("change", [dict(start=1), dict(seed=3), dict(place=80), dict(device="cpu")], ids=str)
def test_what_nobody_wants_stops_between_two_evaluations(panel, view, change):
    e, seen = panel.explorer, []
    old = replace(view, steps=6, step=6, start=40)
    put(panel, steps=6)

    def once(*_):
        seen.append(1)
        if len(seen) == 2:
            for name, value in change.items():
                panel.knobs[name].value = value

    hook = e.detector(view).f.register_forward_pre_hook(once)
    put(panel, start=40)
    panel.worker.wait()
    hook.remove()
    dropped = "device" not in change
    assert len(seen) == (2 + 6 if dropped else 6)
    assert (cycle_key(old, 0) in held(e)) == (not dropped)
    assert not said(panel)
    in_line(panel)


def test_the_threshold_of_the_way_shown(panel, explorer):
    "Another way is asked for, and something else before it is there."
    e, seen = panel.explorer, []

    def once(*_):
        seen.append(1)
        panel.knobs["step"].value = 1

    hook = e.detector(replace(panel.seen, input="t2", target="t1")).f.register_forward_pre_hook(once)
    put(panel, input="t2")
    panel.worker.wait()
    hook.remove()
    assert seen
    assert panel.seen.step == 1
    assert panel.seen.threshold == explorer.threshold(panel.seen)
    in_line(panel)


def test_widgets_are_touched_by_their_own_thread(explorer, view, monkeypatch):
    "As in a kernel, whose loop is running."
    threads, show, tell = set(), Panel.show, Panel.tell
    monkeypatch.setattr(Panel, "show", lambda self, *args: (threads.add(threading.get_ident()), show(self, *args)))
    monkeypatch.setattr(Panel, "tell", lambda self, *args: (threads.add(threading.get_ident()), tell(self, *args)))

    async def kernel():
        p = Panel(explorer, view)
        p.knobs["start"].value = 7
        p.knobs["start"].value = 5
        await asyncio.to_thread(p.worker.wait)
        await asyncio.sleep(0)
        assert p.seen == replace(view, start=5)
        in_line(p)
        p.worker.pool.shutdown()

    asyncio.run(kernel())
    assert threads == {threading.get_ident()}


def test_lines_come_and_go(panel):
    click(panel, "show_lines")
    lines = html.unescape(re.sub("</?pre>", "", panel.knobs["lines"].value))
    assert lines == panel.explorer.lines(panel.seen)
    put(panel, threshold=0.4)
    click(panel, "show_lines")
    assert "threshold=0.4" in panel.knobs["lines"].value
    click(panel, "show_lines")
    assert not panel.knobs["lines"].value


def test_an_unexpected_error_is_a_sentence_too(panel, monkeypatch):
    before = picture(panel)
    monkeypatch.setattr(panel.explorer, "png", lambda view: {}["gone"])
    put(panel, start=3)
    assert said(panel).startswith("Unexpected KeyError")
    assert "alert" in panel.knobs["message"].value
    assert picture(panel) == before
    monkeypatch.undo()
    put(panel, start=4)
    assert not said(panel)
    assert panel.seen.start == 4


# ------------------------------------------------------------------------------------------------- files of one's own
def case_bytes(folder, modalities, id="Ann", **options):
    case = write_case(folder, id, modalities, affine=WIDE, **options)
    return {p.name: p.read_bytes() for p in sorted(case.iterdir())}


def nifti(array, affine=WIDE):
    return nib.Nifti1Image(np.asarray(array, np.float32), affine).to_bytes()


@pytest.fixture(scope="module")
def ann(tmp_path_factory):
    return case_bytes(tmp_path_factory.mktemp("ann"), ("flair", "t1"))


def upload(panel, files):
    panel.knobs["upload"].value = tuple(
        {"name": n, "type": "", "size": len(b), "content": memoryview(b), "last_modified": datetime.now(UTC)}
        for n, b in files.items()
    )
    panel.worker.wait()


def no_place(text):
    assert tempfile.gettempdir() not in text and not re.search(r"\btmp\w", text) and os.getcwd() not in text, text


def test_several_files_are_a_case(quick, toy, run, ann):
    upload(quick, ann)
    e = quick.explorer
    assert not said(quick)
    assert sorted(e.subject.case.volumes) == ["flair", "t1"]
    assert not quick.knobs["upload"].value
    assert quick.knobs["kind"].value == "from files"
    assert np.array_equal(e.subject.case.volumes["flair"], toy.case.volumes["flair"])
    assert e.scores(quick.seen) is not None
    in_line(quick)
    assert e.subject.case.id == "Ann"
    assert "Ann" in quick.knobs["text"].value
    for text in (e.describe(quick.seen), e.lines(quick.seen).replace(str(e.weights), "")):
        no_place(text)
    click(quick, "save_png")
    assert "Ann" in said(quick)
    assert not re.search(r"\btmp\w", re.sub(r"/\S*/", "", said(quick)))


@pytest.mark.parametrize(
    ("name", "modality", "id"),
    [
        ("scan.nii.gz", "t1", "scan"),
        ("flair.nii.gz", "flair", None),
        ("Bob_t1.nii.gz", "t1", "Bob"),
        ("T1 nativ (2).nii.gz", "t1", None),
    ],
)
def test_one_file(quick, ann, name, modality, id):
    put(quick, input="t1")
    upload(quick, {name: ann["Ann_t1.nii.gz"]})
    e = quick.explorer
    assert not said(quick), said(quick)
    assert list(e.subject.case.volumes) == [modality]
    assert quick.seen.input == modality
    assert e.scores(quick.seen) is None
    assert id is None or e.subject.case.id == id
    for text in (e.describe(quick.seen), e.lines(quick.seen).replace(str(e.weights), "")):
        no_place(text)
    in_line(quick)
    text, last = html.unescape(quick.knobs["text"].value), e.tiles(quick.seen)[-1]
    guess = f"{name} is read as T1, since its name does not say. "
    assert text.startswith(guess * (name == "scan.nii.gz") + f"{modality.upper()} of {e.subject.case.id}")
    assert ("is read as" in text) == (name == "scan.nii.gz")
    assert "not known" in quick.knobs["scores"].value
    assert "not known" in text
    assert (last.title, last.note[1]) == ("found", "truth not known")
    upload(quick, {"Bob_flair.nii.gz": ann["Ann_flair.nii.gz"]})
    assert "is read as" not in quick.knobs["text"].value
    assert quick.explorer.subject.note == ""


def test_a_nameless_file_at_a_path_says_so_too(quick, tmp_path, ann):
    path = tmp_path / "a<b>.nii.gz"
    path.write_bytes(ann["Ann_t1.nii.gz"])
    put(quick, input="t1")
    put(quick, path=str(path))
    click(quick, "open")
    assert not said(quick)
    assert quick.knobs["text"].value.startswith("a&lt;b&gt;.nii.gz is read as T1, since its name does not say. T1 of ")
    subject, here = quick.explorer.subject, {}
    exec(f"from mmccd.explore import file_subject\nagain = {subject.call}", here)
    assert here["again"].note == subject.note
    assert list(here["again"].case.volumes) == ["t1"]
    assert explore(str(path), quick.explorer.weights, input="t1", steps=1).explorer.subject.note == subject.note


def nan():
    image = volumes()[0]
    image[12, 14, 5] = np.nan
    return image


SHIFTED = WIDE + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3)
BAD = {
    "empty": (lambda a: {"Ann_flair.nii.gz": b""}, "Ann_flair.nii.gz", "empty"),
    "text": (lambda a: {"Ann_flair.nii": b"patient, date"}, "Ann_flair.nii", "not a NIfTI"),
    "truncated": (lambda a: {"Ann_flair.nii.gz": a["Ann_flair.nii.gz"][:2000]}, "Ann_flair.nii.gz", "cut off"),
    "four axes": (lambda a: {"Ann_flair.nii": nifti(np.stack([volumes()[0]] * 3, -1))}, "Ann_flair.nii", "4-D"),
    "nan": (lambda a: {"Ann_flair.nii": nifti(nan())}, "Ann_flair.nii", "NaN"),
    "zero": (lambda a: {"Ann_flair.nii": nifti(np.zeros((24, 28, 10)))}, "Ann_flair.nii", "every voxel is 0"),
    "two claims": (
        lambda a: {"Ann_flair.nii.gz": a["Ann_flair.nii.gz"], "Bob_flair.nii.gz": a["Ann_flair.nii.gz"]},
        "Ann_flair.nii.gz",
        "both claim to be flair",
    ),
    "other grids": (
        lambda a: {"Ann_flair.nii": nifti(volumes()[0]), "Ann_t1.nii": nifti(volumes()[0], SHIFTED)},
        "Ann_t1.nii",
        "affine",
    ),
    "other shapes": (
        lambda a: {"Ann_flair.nii": nifti(volumes()[0]), "Ann_t1.nii": nifti(volumes()[0][1:])},
        "Ann_t1.nii",
        "shape",
    ),
    "t1ce": (lambda a: {"Ann_t1ce.nii.gz": a["Ann_t1.nii.gz"]}, "Ann", "t1ce"),
    "t1ce and no name": (lambda a: {"t1ce.nii.gz": a["Ann_t1.nii.gz"]}, "t1ce", "flair"),
    "little brain": (lambda a: {"Ann_flair.nii": nifti(volumes()[0], AFFINE)}, "Ann", "square centimetres"),
    "little and no name": (
        lambda a: {"flair.nii": nifti(volumes()[0], AFFINE), "t1.nii": nifti(volumes()[0], AFFINE)},
        "Cannot show",
        "square centimetres",
    ),
    "segmentation": (lambda a: {"Ann_seg.nii.gz": a["Ann_seg.nii.gz"]}, "Ann_seg.nii.gz", "segmentation"),
    "no names": (lambda a: {"a.nii.gz": a["Ann_t1.nii.gz"], "b.nii.gz": a["Ann_t1.nii.gz"]}, "modality", "ID_flair"),
    "skull": (lambda a: {"Ann_flair.nii": nifti(volumes()[0] + 3)}, "background", "skull"),
    "flat": (lambda a: {"Ann_flair.nii": nifti(volumes()[0] > 0)}, "flair of Ann", "half of its brain"),
    "picture": (lambda a: {"Ann_flair.png": b"PNG"}, "Ann_flair.png", "NIfTI"),
    "long name": (lambda a: {"a" * 300 + ".nii.gz": a["Ann_t1.nii.gz"]}, "a" * 20, ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_one_sentence(quick, ann, kind):
    make, *words = BAD[kind]
    before, seen, subject = picture(quick), quick.seen, quick.explorer.subject
    upload(quick, make(ann))
    one_sentence(said(quick), *words)
    no_place(said(quick))
    assert "alert" in quick.knobs["message"].value
    assert not quick.knobs["upload"].value
    assert picture(quick) == before
    assert quick.seen == seen
    assert quick.explorer.subject is subject
    assert quick.loader is quick.loaded
    in_line(quick)
    put(quick, start=2)
    assert not said(quick)
    assert quick.seen.start == 2
    assert picture(quick) != before
    in_line(quick)


def test_nothing_uploaded():
    with pytest.raises(ValueError) as e:
        upload_subject({})
    one_sentence(str(e.value), "Nothing was uploaded")


def test_a_path_may_be_bad_and_the_next_good(quick, tmp_path, toy):
    seen, before = quick.seen, picture(quick)
    for path, words in (
        (str(tmp_path / "nowhere"), "Cannot read"),
        ("", "Type the path"),
        ("  ", "Type the path"),
        (str(tmp_path), "Cannot read"),
    ):
        put(quick, path=path)
        click(quick, "open")
        one_sentence(said(quick), words)
        assert "alert" in quick.knobs["message"].value
        assert quick.seen == seen
        assert picture(quick) == before
        in_line(quick)
    case = write_case(tmp_path, "Eve", ("t1",), affine=WIDE)
    put(quick, path=f" {case} ")
    click(quick, "open")
    assert not said(quick)
    assert quick.explorer.subject.case.id == "Eve"
    assert quick.seen.input == "t1"
    in_line(quick)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    write_case(tmp_path, "Eve", ("t1",), affine=WIDE)
    monkeypatch.setenv("HOME", str(tmp_path))
    s = file_subject("~/Eve")
    assert s.case.id == "Eve"
    assert str(tmp_path / "Eve") in s.call
    one = file_subject(f"~/Eve/{'Eve_t1.nii.gz'}", "flair")  # the name has the say
    assert list(one.case.volumes) == ["t1"]
    assert eval(one.call, vars(ex)).case.id == "Eve"


def test_what_was_asked_for_with_a_bad_file_is_still_done(quick, tmp_path):
    "A control is moved while a file is read that turns out bad."
    begun, go = threading.Event(), threading.Event()

    def loader():
        begun.set()
        assert go.wait(30)
        raise ValueError("Cannot read it.")

    panel.set_subject(quick, loader)
    assert begun.wait(30)
    quick.knobs["start"].value = 3
    go.set()
    quick.worker.wait()
    assert quick.seen.start == 3
    assert quick.loader is quick.loaded
    in_line(quick)


def test_names_are_no_html(quick, ann):
    bad = '<img src=x onerror="alert(1)">'
    upload(quick, {f"{bad}_flair.nii.gz": ann["Ann_flair.nii.gz"]})
    click(quick, "show_lines")
    click(quick, "save_png")
    pages = [quick.knobs[n].value for n in ("text", "message", "lines", "scores")]
    assert not any("<img" in p for p in pages)
    assert "&lt;img" in pages[0]
    assert "&lt;img" in pages[1]
    assert "&lt;img" in pages[2]
    upload(quick, {f"{bad}_t1.nii.gz": b"no"})
    assert "<img" not in quick.knobs["message"].value
    assert "&lt;img" in quick.knobs["message"].value


@pytest.fixture
def twins(tmp_path, toy):
    case = write_case(tmp_path, "Ann", ("flair", "t1"), affine=WIDE)
    write_case(tmp_path / "other", "t", ("flair", "t1"), lesion=False, affine=WIDE).rename(case / "healthy_twin")
    return case


def test_the_twin_beside_a_case_is_found(twins, run):
    e = Explorer(file_subject(twins), run)
    v = e.first_view(twin=True, steps=1)
    assert e.subject.twin.id == "Ann_healthy_twin"
    assert [t.title for t in e.tiles(v)][-1] == "healthy twin"
    _, brain, lesion = slices_of(e, v)
    a, b = e.slice("flair", v), e.slice("twin", v)
    far = brain[0] & ~torch.nn.functional.max_pool2d(lesion.float(), 5, 1, 2)[0].bool()
    assert (a - b)[lesion[0]].mean() > 1
    assert (a - b)[far].abs().max() < 1e-3
    p = Panel(e, v)
    assert not p.knobs["twin"].disabled
    assert p.knobs["twin"].value
    p.worker.pool.shutdown()


def test_a_twin_of_another_shape_is_refused(twins):
    for f in (twins / "healthy_twin").iterdir():
        nib.save(nib.Nifti1Image(np.asarray(nib.load(f).dataobj)[2:], WIDE), f)
    with pytest.raises(ValueError) as e:
        file_subject(twins)
    one_sentence(str(e.value), "healthy_twin", "shape")


def test_without_a_twin_there_is_nothing_to_tick(quick):
    assert quick.knobs["twin"].disabled
    assert quick.explorer.slice("twin", quick.seen) is None
    e, asked = quick.explorer, replace(quick.seen, twin=True)
    assert e.describe(asked) == e.describe(quick.seen)
    assert e.png(asked) == e.png(quick.seen)


# ------------------------------------------------------------------------------------------------- saving
def link_of(panel):
    found = re.search(
        r'<a download="([^"]*)" href="data:image/(png|gif);base64,([^"]*)">', panel.knobs["message"].value
    )
    return html.unescape(found[1]), b64decode(found[3])


def test_saving_keeps_what_is_there(quick):
    e, v = quick.explorer, quick.seen
    for kind, n in (("png", 3), ("steps", 2), ("strips", 1)):
        for _ in range(n):
            click(quick, f"save_{kind}")
        assert said(quick).startswith("Saved")
        assert link_of(quick)[1] == (e.png(v) if kind == "png" else e.gif(v, kind))
        assert (quick.out / link_of(quick)[0]).read_bytes() == link_of(quick)[1]
    kept = tree(quick.out)
    assert len(kept) == 6
    assert sorted(p.rsplit(".")[-1] for p in kept) == ["gif"] * 3 + ["png"] * 3
    assert quick.seen == v
    in_line(quick)


@pytest.mark.parametrize("kind", ["png", "steps"])
@pytest.mark.parametrize(
    "trouble",
    [
        "a file",
        "below a file",
        pytest.param(
            "read-only",
            marks=pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere"),
        ),
        "full",
    ],
)
def test_saving_where_nothing_can_be_saved(quick, tmp_path, trouble, kind, monkeypatch):
    out = tmp_path / "taken"
    if trouble == "read-only":
        out.mkdir(mode=0o500)
    elif trouble == "full":
        monkeypatch.setattr(
            ex, "write_atomic", lambda path, data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
    else:
        out.write_text("mine")
    quick.out = out / "deep" if trouble == "below a file" else out
    before = tree(tmp_path)
    click(quick, f"save_{kind}")
    words = said(quick).replace(f"Download {link_of(quick)[0]}", "").strip()
    one_sentence(words, "Cannot write into", quick.out)
    assert "alert" in quick.knobs["message"].value
    assert link_of(quick)[1] == (
        quick.explorer.png(quick.seen) if kind == "png" else quick.explorer.gif(quick.seen, kind)
    )
    assert tree(tmp_path) == before
    in_line(quick)


def test_a_picture_is_saved_even_if_a_control_is_moved(quick):
    e, v = quick.explorer, quick.seen
    begun, go = threading.Event(), threading.Event()
    quick.worker.pool.submit(lambda: (begun.set(), go.wait(30)))
    assert begun.wait(30)
    quick.knobs["save_png"].click()
    quick.knobs["save_steps"].click()
    quick.knobs["start"].value = 3
    told, tell = [], quick.tell
    quick.tell = lambda text, *rest: (told.append(text), tell(text, *rest))
    go.set()
    quick.worker.wait()
    assert [p.read_bytes() for p in quick.out.iterdir()] == [e.png(v)]
    assert quick.seen.start == 3
    assert any("dropped" in t for t in told)
    in_line(quick)


# ------------------------------------------------------------------------------------------------- what is refused
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
        with pytest.raises(ValueError) as e:
            make()
        one_sentence(str(e.value), *words)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(input="t1", target="t1"), ("t1 to t1", "flair to t1")),
        (dict(input="t1ce"), ("t1ce", "flair to t1")),
        (dict(target="seg"), ("seg",)),
        (dict(place=3), ("slice 3", "79 to 81")),
        (dict(width=65), ("65", "64")),
        (dict(start=64), ("64",)),
        (dict(start=-8), ("-8",)),
        (dict(swept=99), ("'fast'", "masks", 99)),
    ],
    ids=str,
)
def test_views_that_are_not_there(wrong, words, explorer, view):
    before, full = explorer.png(view), replace(view, **wrong)
    looks = [
        lambda: explorer.first_view(**wrong),
        lambda: explorer.first_view(steps=2, **wrong),
        lambda: engine.check_view(explorer, full),
        *(partial(f, full) for f in (explorer.image, explorer.describe, explorer.map, explorer.tiles)),
    ]
    if "swept" not in wrong:
        looks += [lambda: explorer.trace(full)]
    for look in looks:
        with pytest.raises(ValueError) as e:
            look()
        one_sentence(str(e.value), *words)
    assert explorer.png(view) == before


def test_a_case_without_that_modality(small):
    for input, target in (("t2", "t1"), ("t2", None)):
        with pytest.raises(ValueError) as e:
            small.first_view(input=input, **({"target": target} if target else {}))
        one_sentence(str(e.value), "Ann", "t2", "flair, t1")


@given(data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fit_finds_what_can_be_shown(small, data):
    def pick(low, high):
        return data.draw(st.integers(low, high))

    v = View(
        pick(-5, 99),
        data.draw(st.sampled_from([*THREE, "t1ce"])),
        data.draw(st.sampled_from([*THREE, "t1ce"])),
        pick(-80, 80),
        pick(1, 70),
        True,
        data.draw(st.sampled_from(list(SWEEPS))),
        2,
        1,
        pick(0, 99),
        data.draw(st.booleans()),
    )
    fitted = small.fit(v)
    assert engine.check_view(small, fitted) == fitted == small.fit(fitted)
    try:
        engine.check_view(small, v)
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
    with pytest.raises(ValueError) as e:
        Explorer(subject, weights)
    one_sentence(str(e.value), *words)


@pytest.mark.parametrize("make", [Explorer, explore])
def test_devices_that_are_not_there(make, subject):
    with pytest.raises(ValueError) as e:
        make(subject, device="quantum")
    one_sentence(str(e.value), "quantum", "cpu")


def test_other_things_that_are_refused(explorer, view, tmp_path):
    with pytest.raises(ValueError) as e:
        explorer.gif(view, "tiles")
    one_sentence(str(e.value), "'tiles'", "strips", "steps")
    with pytest.raises(ValueError) as e:
        explore(tmp_path / "nobody")
    one_sentence(str(e.value), "nobody")
    with pytest.raises(ValueError) as e:
        explorer.use("quantum")
    one_sentence(str(e.value), "quantum")
    assert explorer.device == "cpu"


# ------------------------------------------------------------------------------------------------- as a whole
def test_widgets_are_imported_when_they_are_needed():
    code = "import sys, mmccd.explore as ex; e = ex.Explorer.__init__; print([m for m in ('ipywidgets', 'IPython', 'matplotlib.pyplot', 'traitlets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_widgets_are_made_without_warnings(explorer, view):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = Panel(explorer, view)
        put(p, threshold=0.3)
    p.worker.pool.shutdown()


def test_without_widgets_it_says_how_to_get_them(monkeypatch, subject):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match=r"needs ipywidgets.*pip install 'mmccd\[notebooks\]'"):
        explore(subject)
    e = Explorer(subject, "masked")
    e.png(e.first_view())  # the rest works


def test_explore_opens_what_it_is_told(tmp_path, run):
    case = write_case(tmp_path, "Ann", ("flair", "t1"), affine=WIDE)
    p = explore(str(case), run, "cpu", tmp_path / "out", input="t1", swept=2, steps=2, threshold=0.25)
    assert p.seen == p.explorer.first_view(input="t1", swept=2, steps=2, threshold=0.25)
    assert (p.seen.by_hand, p.seen.input) == (False, "t1")
    assert p.explorer.subject.case.id == "Ann"
    in_line(p)
    shown = p._repr_mimebundle_()
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == p.box.model_id
    assert "JupyterLab" in shown["text/plain"]
    names = {c for w in p.knobs.values() for c in w._dom_classes}
    assert names == {f"x-{n.replace('_', '-')}" for n in p.knobs}
    p.worker.pool.shutdown()
