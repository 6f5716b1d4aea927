"Controls, picture and words agree, whatever is moved and in whichever order."

import asyncio
import html
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from explorer_toys import OTHERS, busy, cached, click, in_line, one_sentence, picture, put, said, toy_subject

from mmccd.explorer import panel as panel_module
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel
from mmccd.explorer.subjects import Subject
from mmccd.explorer.view import SWEEPS, cycle_key


@pytest.fixture(scope="module")
def another(full_toy, run):
    "The same as in `panel`, with another past."
    return Explorer(full_toy, run)


@pytest.mark.parametrize("name", [n for n in OTHERS if n != "by_hand"])
def test_every_control_changes_the_picture(panel, another, name):
    value = {"place": panel.explorer.places[0], "target": "t1"}.get(name, OTHERS[name])
    if name in ("sampler", "swept"):
        put(panel, swept=2)
    before = picture(panel)
    put(panel, **{name: value})
    assert getattr(panel.shown, name) == value
    assert picture(panel) != before
    assert not said(panel)
    in_line(panel)
    assert picture(panel) == another.png(panel.shown)


def test_the_controls_begin_where_the_view_is(packaged_panel, view):
    assert packaged_panel.shown == view
    assert packaged_panel.view() == view
    in_line(packaged_panel)


def test_hand_and_sweep_take_turns(panel):
    view = panel.shown
    put(panel, swept=2)
    assert panel.shown == replace(view, swept=2, by_hand=False)
    put(panel, start=3)
    assert panel.shown == replace(view, swept=2, by_hand=True, start=3)  # the strip in the pictures; the map stays
    put(panel, step=1)
    assert panel.shown.by_hand
    put(panel, swept=3)
    assert not panel.shown.by_hand
    put(panel, swept=0)
    assert panel.shown == replace(view, start=3, step=1)
    for name, value in (("width", 5), ("vertical", False)):
        put(panel, swept=2)
        put(panel, **{name: value})
        assert panel.shown.by_hand
        assert panel.shown.swept == 2
    in_line(panel)


def test_a_sampler_brings_its_steps(quick):
    for name in ("paper", "one by one", "fast"):
        put(quick, sampler=name)
        assert quick.shown.sampler == name
        assert quick.shown.steps == quick.shown.step == SWEEPS[name].steps
        in_line(quick)
    put(quick, steps=3)
    assert (quick.shown.steps, quick.shown.step) == (3, 3)


def test_another_pair_brings_its_threshold(packaged_panel, explorer):
    panel = packaged_panel
    put(panel, steps=1)
    put(panel, threshold=0.2)
    for name, value in (("target", "t2"), ("input", "t1"), ("target", "flair"), ("input", "flair")):
        put(panel, **{name: value})
        in_line(panel)
        assert panel.shown.input != panel.shown.target
        assert panel.shown.threshold == explorer.threshold(panel.shown)
    put(panel, threshold=0.3)
    click(panel, "calibrated")
    assert panel.shown.threshold == explorer.threshold(panel.shown)
    assert not panel.controls["calibrated"].disabled
    assert f"{panel.shown.threshold:.2f}" in panel.controls["calibrated"].description


def test_without_calibration_there_is_nothing_to_return_to(quick):
    assert quick.controls["calibrated"].disabled
    assert "not calibrated" in quick.controls["calibrated"].description
    click(quick, "calibrated")
    in_line(quick)


def test_another_subject_begins_anew(panel, full_toy, run, tmp_path, monkeypatch):
    other = replace(toy_subject(tmp_path, "Eve"), kind="ms")
    other.case.lesion = np.roll(other.case.lesion, 3, 2)
    subjects = {("ms", 404): other, ("glioma", 404): full_toy}
    monkeypatch.setattr(panel_module, "phantom_subject", lambda kind, seed: subjects[kind, seed])
    was = panel.shown
    put(panel, step=1, start=-3, swept=2, rows=2, input="t2")
    put(panel, threshold=0.1)
    put(panel, kind="ms")
    fresh = Explorer(other, run)
    first = fresh.first_view(input="t2", target=panel.shown.target, steps=2, step=1, rows=2)
    assert panel.explorer.subject is other
    assert panel.shown == replace(first, swept=2, by_hand=False)
    assert first.place != was.place
    assert panel.shown.threshold == first.threshold != 0.1
    assert panel.shown.start == first.start != -3
    assert picture(panel) == fresh.png(panel.shown)
    in_line(panel)
    put(panel, start=2)
    put(panel, kind="glioma")
    assert panel.shown.by_hand
    assert panel.shown.swept == 2
    assert panel.shown.start != 2
    in_line(panel)


def test_the_map_of_another_subject_is_as_full_as_it_can_be(quick, toy):
    "A smaller head needs fewer masks."
    far = np.arange(toy.case.brain.shape[0])[:, None, None] < 12

    def small():
        volumes = {m: np.where(far, v, 0) for m, v in toy.case.volumes.items()}
        lesion = np.zeros_like(toy.case.lesion)
        return Subject(replace(toy.case, volumes=volumes, brain=toy.case.brain & far, lesion=lesion), None, "")

    put(quick, sampler="one by one", steps=1)
    put(quick, swept=quick.controls["swept"].max)
    full = quick.shown.swept
    quick.request_subject(small)
    quick.worker.wait()
    assert 0 < quick.shown.swept == len(quick.explorer.masks(quick.shown)) < full
    assert not quick.shown.by_hand
    in_line(quick)
    put(quick, swept=0)
    quick.request_subject(lambda: toy)
    quick.worker.wait()
    assert quick.explorer.subject is toy
    assert quick.shown.swept == 0
    assert quick.shown.by_hand
    in_line(quick)


def test_another_subject_while_the_pair_is_half_set(panel, full_toy):
    "The controls say T1 to T1 for a moment, since only one of them can be moved at a time."
    put(panel, target="t1")
    other = replace(full_toy, kind="ms")
    with busy(panel):
        panel.controls["input"].value = "t1"
        panel.request_subject(lambda: other)
    assert not said(panel)
    assert panel.explorer.subject is other
    assert panel.shown.input == "t1" != panel.shown.target
    in_line(panel)


def test_from_files_says_what_to_do(panel):
    before, shown, newest = picture(panel), panel.shown, panel.worker.newest
    put(panel, kind="from files")
    assert panel.controls["kind"].value == "glioma"
    assert panel.worker.newest is newest
    assert panel.shown == shown
    assert picture(panel) == before
    one_sentence(said(panel), "path", "upload")
    in_line(panel)
    put(panel, start=4)
    assert not said(panel)
    assert panel.shown.start == 4


def test_a_seed_is_for_phantoms(quick, full_toy, toy):
    assert quick.controls["subject_seed"].disabled  # its subject is from files
    for subject, disabled in ((full_toy, False), (toy, True)):
        quick.request_subject(lambda subject=subject: subject)
        quick.worker.wait()
        assert quick.controls["subject_seed"].disabled == disabled
        in_line(quick)


@pytest.mark.parametrize("weights", ["masked", "mmccd"])
def test_steps_can_be_moved_where_there_are_some(subject, weights, make_panel):
    e = Explorer(subject, weights)
    p = make_panel(e, e.first_view(steps=1, step=1))

    def disabled():
        return [p.controls[n].disabled for n in ("steps", "step", "play_steps")]

    assert disabled() == [weights == "masked"] * 3
    in_line(p)
    put(p, sampler="one by one", swept=1)  # which brings its steps
    assert disabled() == [weights == "masked"] * 3
    assert p.controls["step"].max == (1 if weights == "masked" else 8)
    assert not said(p)


@pytest.mark.parametrize("changes", [{"width": 20}, {"threshold": 7.0}, {"steps": 120, "step": 110}], ids=str)
def test_what_is_out_of_range_is_shown_all_the_same(small, make_panel, changes):
    view = small.nearest_view(replace(small.first_view(steps=2), **changes))
    in_line(make_panel(small, view))


def test_play_over_strips_advances_on_slow_machines(quick, monkeypatch):
    "A tick comes with every evaluation of the network, long before a cycle is done."
    c, shown, ticks = quick.controls, [], []
    put(quick, sampler="one by one", steps=3)
    n = c["swept"].max
    assert n > 6
    show = quick.show
    monkeypatch.setattr(quick, "show", lambda request, result: (shown.append(result.view.swept), show(request, result)))

    def tick(*_):
        ticks.append(c["swept"].value)
        if c["swept"].value < n:
            c["swept"].value += 1

    hook = quick.explorer.detector(quick.shown).f.register_forward_pre_hook(tick)
    c["swept"].value = 1
    while shown[-1:] != [n]:
        quick.worker.wait()
    hook.remove()
    assert len(ticks) == 3 * n
    assert shown == sorted(shown)
    assert len(shown) >= 3
    assert shown[0] == 1
    in_line(quick)


@pytest.mark.parametrize("name", ["start", "seed", "place", "device"])
def test_what_nobody_needs_stops_between_two_evaluations(panel, name):
    e, calls = panel.explorer, []
    change = {"start": 1, "seed": 3, "place": e.places[0], "device": "cpu"}[name]
    put(panel, steps=6)
    old = replace(panel.shown, start=20)

    def once(*_):
        calls.append(1)
        if len(calls) == 2:
            panel.controls[name].value = change

    hook = e.detector(old).f.register_forward_pre_hook(once)
    put(panel, start=20)
    panel.worker.wait()
    hook.remove()
    dropped = name != "device"
    assert len(calls) == (2 + 6 if dropped else 6)
    assert (cycle_key(old, 0) in cached(e)) == (not dropped)
    assert not said(panel)
    in_line(panel)


def test_the_threshold_belongs_to_the_pair_shown(packaged_panel, explorer):
    "Another pair is requested, and something else before it is there."
    panel, calls = packaged_panel, []

    def once(*_):
        calls.append(1)
        panel.controls["step"].value = 1

    detector = panel.explorer.detector(replace(panel.shown, input="t2", target="t1"))
    hook = detector.f.register_forward_pre_hook(once)
    put(panel, input="t2")
    panel.worker.wait()
    hook.remove()
    assert calls
    assert panel.shown.step == 1
    assert panel.shown.threshold == explorer.threshold(panel.shown)
    in_line(panel)


def test_widgets_are_touched_by_their_own_thread(small, make_panel, monkeypatch):
    "As in a kernel, whose loop is running."
    threads, show, tell = set(), Panel.show, Panel.show_message
    monkeypatch.setattr(Panel, "show", lambda *a: (threads.add(threading.get_ident()), show(*a)))
    monkeypatch.setattr(Panel, "show_message", lambda *a: (threads.add(threading.get_ident()), tell(*a)))
    view = small.first_view(steps=2)

    async def kernel():
        p = make_panel(small, view)
        p.controls["start"].value = 7
        p.controls["start"].value = 5
        await asyncio.to_thread(p.worker.wait)
        await asyncio.sleep(0)
        assert p.shown == replace(view, start=5)
        in_line(p)

    asyncio.run(kernel())
    assert threads == {threading.get_ident()}


def test_lines_come_and_go(panel):
    click(panel, "show_lines")
    lines = html.unescape(re.sub("</?pre>", "", panel.controls["lines"].value))
    assert lines == panel.explorer.lines(panel.shown)
    put(panel, threshold=0.4)
    click(panel, "show_lines")
    assert "threshold=0.4" in panel.controls["lines"].value
    click(panel, "show_lines")
    assert not panel.controls["lines"].value


def test_an_unexpected_error_is_a_sentence_too(panel, monkeypatch):
    before = picture(panel)
    monkeypatch.setattr(panel.explorer, "png", lambda view: {}["gone"])
    put(panel, start=3)
    assert said(panel).startswith("Unexpected KeyError")
    assert "alert" in panel.controls["message"].value
    assert picture(panel) == before
    monkeypatch.undo()
    put(panel, start=4)
    assert not said(panel)
    assert panel.shown.start == 4
