"The words below the picture are true, and the Python lines make the picture again."

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from explorer_toys import in_line, number, own_detector, slices_of

from mmccd.explorer.canvas import OVERLAYS, SHADES, png_of, pure
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel
from mmccd.masked_diffusion import Sampler
from mmccd.masking import strip


def same_again(explorer, view, capsys):
    "What the Python lines print, and the picture they make."
    lines, here = explorer.lines(view), {}
    exec(lines, here)
    assert png_of(eval(lines.splitlines()[-1], here)) == explorer.png(view)
    assert here["view"] == view
    assert capsys.readouterr().out == explorer.describe(view) + "\n"


def test_the_lines_make_the_same_picture_of_a_phantom(explorer, view, capsys):
    changes = {"swept": 2, "by_hand": False, "step": 1, "twin": True, "rows": 2, "seed": 5}
    same_again(explorer, replace(view, **changes), capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input": "t1", "target": "flair", "sampler": "one by one", "swept": 1, "threshold": 0.1},
        {"vertical": False, "width": 5, "start": -2},
    ],
    ids=["first", "sweep", "strip"],
)
def test_the_lines_name_file_and_networks(small, changes, capsys):
    same_again(small, replace(small.first_view(steps=2), **changes), capsys)


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
    mask = explorer.masks(v)[v.swept - 1] if v.shown_mask else strip(64, v.start, v.width, v.vertical)
    if v.shown_mask:
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
    not_among, twin = "the strip that is shown not among them", "The last picture is the healthy twin's "
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
                not any(torch.equal(explorer.trace(v, v.shown_mask).mask[0], m) for m in explorer.masks(v)[: v.swept])
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
        replace(view, swept=4, by_hand=False, threshold=3.0),
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
    found = e.map(v)[0].numpy()[e.slices.box] > v.threshold
    for name in OVERLAYS:
        assert np.array_equal(
            (last.pixels > pure(name) - SHADES) & (last.pixels <= pure(name)), found & (name == "wrong")
        ), name
    p = Panel(e, v)
    in_line(p)
    p.worker.stop()


def test_without_truth_green_is_above_the_threshold(explorer, view):
    e, v = (
        Explorer(replace(explorer.subject, case=replace(explorer.subject.case, lesion=None))),
        replace(view, swept=2, threshold=0.3),
    )
    last, found = e.tiles(v)[-1], e.map(v)[0].numpy()[e.slices.box] > 0.3
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
