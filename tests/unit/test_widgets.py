"The widgets of the lessons: their numbers are those of the package, and controls, picture and words agree."

import re
import sys
from dataclasses import fields, replace
from html import unescape

import numpy as np
import pytest

from mmccd import widgets
from mmccd.masking import MASKS, MaskPlan
from mmccd.postprocess import PostProcess
from mmccd.scanner import HEALTHY, RELAXATION, mr_signal, sample_acquisition
from mmccd.scoring import average_precision, counts, dice, precision, recall
from mmccd.widgets import confusion, coverage, signals
from mmccd.widgets.confusion import MOST_HEALTHY, THRESHOLDS, ScoresState, curve, scores_of
from mmccd.widgets.coverage import FAMILIES, MasksState, cost, fit_masks, legal_steps, make_masks
from mmccd.widgets.signals import MODALITIES, SETTINGS, T1_MS, T2_MS, brightness, physics_state, verdict

# physics: the numbers


@pytest.mark.parametrize("tissue", RELAXATION)
def test_brightness_is_the_scanners_equation(tissue):
    state = physics_state(tissue)
    white, found = RELAXATION["wm"][1], brightness(state)
    for modality in MODALITIES:
        setting = state.settings[modality]
        wanted = mr_signal(*RELAXATION[tissue][1], **setting) / mr_signal(*white, **setting)
        assert found["this"][modality] == pytest.approx(wanted, rel=1e-5)
        assert found["wm"][modality] == 1
        if tissue in HEALTHY:
            assert found[tissue] == found["this"]
    assert state.tissue == tissue


def test_the_usual_scanner_lies_in_the_middle():
    rng = np.random.default_rng(0)
    drawn = [sample_acquisition(rng) for _ in range(200)]
    for name, value in signals.usual_settings().items():
        modality, setting = name.split("_")
        seen = [d[modality][setting.upper()] for d in drawn]
        assert min(seen) < value < max(seen), name
        low, high, step = SETTINGS[name]
        assert low <= value <= high
        assert (value - low) % step == 0


def test_no_slider_leads_where_the_equation_has_no_meaning():
    "TE before TR, TI + TE before TR, and white matter, which is the unit, gives a signal in all corners."
    for modality in MODALITIES:
        names = [n for n in SETTINGS if n.startswith(modality)]
        for corner in np.ndindex(*(2,) * len(names)):
            s = {n.split("_")[1].upper(): SETTINGS[n][i] for n, i in zip(names, corner)}
            assert s.get("TI", 0) + s["TE"] < s["TR"]
            assert mr_signal(*RELAXATION["wm"][1], **s) > 0.005
    times = np.arange(SETTINGS["flair_ti"][0], SETTINGS["flair_ti"][1])
    assert min(mr_signal(*RELAXATION["wm"][1], 9500, 112, float(t)) for t in times) > 0.03
    assert {v[1][0] for v in RELAXATION.values()} <= set(T1_MS)
    assert {v[1][1] for v in RELAXATION.values()} <= set(T2_MS)


# physics: when translation must fail


def twin_of(tissue, **changes):
    "A healthy tissue with other numbers."
    return replace(physics_state(tissue), **changes)


def test_it_must_fail_where_only_the_target_tells():
    "Another T2 and the T1 of grey matter: almost the same in a T1 image of a short echo, and not in T2."
    state = twin_of("cortex", t2=T2_MS[T2_MS.index(104) + 12], t1_te=5)
    v = verdict(state)
    assert v.kind == "fails"
    assert v.nearest == "cortex"
    b = brightness(state)
    assert abs(b["this"]["t1"] - b["cortex"]["t1"]) <= state.alike
    assert v.gap == pytest.approx(min(abs(b["this"]["t2"] - b[k]["t2"]) for k in v.lookalikes))
    assert signals.describe_physics(state).startswith("Must fail: in T1 this tissue is as bright as grey matter")
    assert signals.describe_physics(state).endswith(f"{v.gap:.2f}.")


@pytest.mark.parametrize("tissue", HEALTHY)
@pytest.mark.parametrize(("a", "b"), [("t1", "t2"), ("flair", "t2"), ("t2", "flair")])
def test_a_healthy_tissue_never_must_fail(tissue, a, b):
    state = physics_state(tissue, a, b)
    assert verdict(state).kind == "passes"
    assert verdict(state).gap == 0
    assert signals.describe_physics(state).startswith("Need not fail")


def test_there_is_no_rule_where_nothing_healthy_is_as_bright():
    state = twin_of("csf", t1=T1_MS[0], t2=2000)
    b = brightness(state)
    assert all(abs(b["this"]["t1"] - b[k]["t1"]) > state.alike for k in HEALTHY)
    assert verdict(state).kind == "unknown"
    assert signals.describe_physics(state).startswith("No rule")


def test_the_distance_decides():
    "The packaged beginning: swelling looks like grey matter in T1; seen coarsely, it also looks like blood, in T2 too."
    assert verdict(physics_state("oedema", "t1", "t2", 0.03)).kind == "fails"
    assert verdict(physics_state("oedema", "t1", "t2", 0.08)).kind == "passes"
    assert verdict(physics_state("oedema", "t1", "t2", 0.08)).nearest == "blood"


# masks


@pytest.mark.parametrize("width", [2, 5, 8, 12, 32])
@pytest.mark.parametrize("family", FAMILIES)
def test_coverage_and_cost(family, width):
    state = fit_masks(MasksState(family, width, step=4, at_once=2, dealt=8, steps=7))
    masks, often = make_masks(state).numpy(), coverage.coverage(state)
    assert often.min() >= 1, "no pixel is left out"
    assert often.sum() == masks.sum(), "each hidden pixel of each mask counts once"
    law = {"even": 2 * width // state.step, "disjoint": 2, "blocks": 1}.get(family)
    if law:
        assert (often == law).all()
    else:
        assert often.max() == 2 * -(-width // state.step)
        assert often.min() == 2  # in the corner where strips begin
    np.testing.assert_allclose(coverage.shares(state), masks.mean((1, 2, 3)), rtol=1e-6)
    assert cost(state) == len(masks) * (7 + 1)
    assert cost(state, 155) == 155 * len(masks) * 8
    text = coverage.describe_masks(state)
    assert f"{len(masks)} × (7 + 1) = {cost(state):,} network evaluations" in text
    assert ("not evenly" in text) == (often.min() < often.max())


def test_cost_is_that_of_the_detector():
    state = MasksState()
    masks = make_masks(state)
    assert cost(state, 3) == MaskPlan(masks, masks.new_ones(3, 1, 64, 64)).cost(state.steps)


@pytest.mark.parametrize("family", MASKS)
def test_every_state_is_brought_to_one_that_exists(family):
    for width in (2, 7, 31, 32):
        for wild in (1, 3, 999):
            state = fit_masks(MasksState(family, width, wild, wild, wild, wild))
            assert len(make_masks(state)) >= state.shown >= 1
            assert fit_masks(state) == state
            assert state.step in legal_steps(family, width) or not legal_steps(family, width)


# scores


@pytest.mark.parametrize(
    "state",
    [
        ScoresState(),
        ScoresState(threshold=0.1, healthy=3),
        ScoresState("MS plaques", 0.3, 8, 4, 5),
        ScoresState(threshold=0.6, erode=16, smallest=30),
    ],
)
def test_scores_are_those_of_scoring(state):
    s, c = scores_of(state), curve(state)
    one, rest = confusion.patient_slice(state.patient), confusion.healthy_slices()
    post, spacing = PostProcess(erode=state.erode, smallest=state.smallest * confusion.PIXEL_ML), confusion.SPACING
    pred, truth, score = [], [], []
    for part, n in ((one, 1), (rest, state.healthy)):
        for k in range(n):
            brain = part.brain[k]
            processed = post.map(part.anomaly[k][..., None], brain[..., None], spacing)
            pred.append(post.segment(processed, state.threshold, spacing)[..., 0][brain])
            truth.append(part.lesion[k][brain])
            score.append(processed[..., 0][brain])
    pred, truth, score = map(np.concatenate, (pred, truth, score))
    assert (s.found, s.wrong, s.missed) == counts(pred, truth)
    assert s.found + s.wrong + s.missed + s.left == truth.size
    assert (s.dice, s.precision, s.recall) == (dice(pred, truth), precision(pred, truth), recall(pred, truth))
    assert s.prevalence == pytest.approx(truth.mean())
    k = THRESHOLDS.index(state.threshold)
    assert (c.precision[k], c.recall[k], c.dice[k]) == pytest.approx((s.precision, s.recall, s.dice))
    assert c.dice.max() == scores_of(replace(state, threshold=c.oracle)).dice
    assert confusion.map_precision(state.patient, state.erode, state.healthy) == average_precision(score, truth)


def test_healthy_slices_cost_precision_and_no_recall():
    found = [scores_of(ScoresState(threshold=0.1, healthy=n)) for n in (0, 4, MOST_HEALTHY)]
    assert found[0].recall == found[1].recall == found[2].recall
    assert found[0].precision > found[1].precision > found[2].precision
    assert found[0].prevalence > found[1].prevalence > found[2].prevalence
    assert not confusion.healthy_slices().lesion.any()


def test_pieces_are_dropped_by_their_pixels():
    few, many = (scores_of(ScoresState(threshold=0.1, smallest=n)) for n in (0, 12))
    assert few.wrong > many.wrong
    assert few.found >= many.found


# panels


@pytest.fixture(scope="module", params=["physics", "masks", "scores"])
def panel(request):
    return getattr(widgets, request.param)()


def said(p):
    return unescape(re.sub("<.*?>", "", p.controls["text"].value)).strip()


def in_line(p):
    "The controls, the picture and the words say what the state says."
    assert p.read() == p.state == p.fit(p.state)
    assert said(p) == p.describe(p.state)
    assert 'role="status"' in p.controls["text"].value


def other_value(control):
    "A value that a control can say and does not say now."
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return next(v for v in reversed(values) if v not in (control.value, ""))
    return control.max if control.value != control.max else control.min


def test_every_control_moves_the_picture_and_none_leads_astray(panel):
    in_line(panel)
    for name in (n for names in panel.groups.values() for n in names if n not in panel.buttons):
        control, start, was = panel.controls[name], panel.state, bytes(panel.controls["picture"].value)
        if control.layout.display == "none":
            continue
        control.value = other_value(control)
        in_line(panel)
        assert panel.controls["picture"].value != was, name
        panel.show(start)
    in_line(panel)


def test_it_shows_itself_and_its_picture(panel):
    bundle = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "picture" in bundle["text/plain"]
    assert panel.picture()._repr_png_()[:4] == b"\x89PNG"
    for name in (n for names in panel.groups.values() for n in names):
        assert f"x-{name.replace('_', '-')}" in panel.controls[name]._dom_classes
        assert name == "play" or panel.controls[name].description


def test_a_tissue_brings_its_numbers_and_numbers_take_its_name():
    p = widgets.physics()
    p.controls["tissue"].value = "infarct"
    assert (p.state.t1, p.state.t2, p.state.pd) == RELAXATION["infarct"][1]
    p.controls["t2"].value = T2_MS[0]
    assert p.controls["tissue"].value == p.state.tissue == ""
    assert p.state.t2 == T2_MS[0]
    p.controls["tissue"].value = "infarct"
    assert p.state.t2 == RELAXATION["infarct"][1][1]
    p.controls["t1_te"].value = 100
    p.controls["usual"].click()
    assert p.state == physics_state("infarct")
    p.controls["input"].value = "t2"
    assert (p.state.input, p.state.target) == ("t2", "t1")
    assert [m for _, m in p.controls["target"].options] == ["t1", "flair"]


def test_a_family_shows_what_it_has():
    p = widgets.masks(family="disjoint")
    seen = {n: p.controls[n].layout.display != "none" for n in ("step", "at_once", "dealt")}
    assert seen == {"step": False, "at_once": True, "dealt": False}
    p.controls["family"].value = "published"
    assert [s for _, s in p.controls["step"].options] == list(range(1, 9))
    p.controls["shown"].value = p.controls["shown"].max
    p.controls["width"].value = 32
    in_line(p)


def test_the_button_goes_to_the_oracle():
    p = widgets.scores()
    p.controls["oracle"].click()
    assert p.state.threshold == curve(p.state).oracle
    assert f"{curve(p.state).dice.max():.2f} at {p.state.threshold:.2f}, belongs to the oracle" in said(p)
    in_line(p)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: widgets.physics("bone"), "'bone'"),
        (lambda: widgets.physics(input="pd"), "'pd'"),
        (lambda: widgets.physics(input="t2", target="t2"), "'t2'"),
        (lambda: widgets.physics(alike=3), "got 3"),
        (lambda: widgets.masks(family="dots"), "'dots'"),
        (lambda: widgets.masks(width=99), "got 99"),
        (lambda: widgets.scores(patient="nobody"), "'nobody'"),
        (lambda: widgets.scores(threshold=0.123), "0.123"),
        (lambda: widgets.scores(healthy=99), "got 99"),
    ],
)
def test_bad_beginnings_are_refused(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_without_ipywidgets_one_plain_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    for name in widgets.__all__:
        with pytest.raises(ImportError, match=r"pip install 'mmccd\[notebooks\]'"):
            getattr(widgets, name)()


def test_states_are_plain():
    "Every field of a state has a control of its name, so none is out of reach."
    for name, state in (("physics", physics_state()), ("masks", MasksState()), ("scores", ScoresState())):
        p = getattr(widgets, name)()
        assert {f.name for f in fields(state)} <= set(p.controls)
