"""The bench of the explorer: it counts what it times, and its kernel does what a person does."""

import asyncio
import json
import random
from dataclasses import fields
from types import SimpleNamespace

import browser
import explorer as tool
import explorer_kernel
import numpy as np
import pytest

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import explore
from mmccd.explorer.subjects import phantom_subject
from mmccd.runtime import single_thread

TINY = tool.QUICK | {"views": 4, "figures": 1}


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def subject():
    return phantom_subject(slices=range(80, 82))


@pytest.fixture(scope="module")
def shared(subject):
    "One for the tests that need no other."
    return Explorer(subject)


@pytest.fixture
def few(monkeypatch, subject):
    "Networks as they ship, a subject of two slices."
    monkeypatch.setattr(tool, "Explorer", lambda who=None, **more: Explorer(who or subject, **more))
    return subject


def listened(explorer):
    "Every evaluation of the networks, as it happens."
    calls, real = [], explorer.detector

    def detector(view):
        d = real(view)
        if view.input + view.target not in seen:
            seen.add(view.input + view.target)
            for net in (d.f.net, d.g):
                net.register_forward_hook(lambda _, x, __: calls.append(len(x[0])))
        return d

    seen, explorer.detector = set(), detector
    return calls


def test_evaluations_are_those_that_happen(subject):
    explorer = Explorer(subject)
    calls, first = listened(explorer), explorer.first_view()
    for view in (
        first,
        tool.replace(first, start=3, steps=5, step=1),
        tool.replace(first, by_hand=False, swept=2, steps=3, step=1),
    ):
        got = tool.counted(explorer, view)
        assert got["evaluations"] == sum(calls) > 0
        assert got["seconds"] > 0
        assert tool.counted(explorer, view)["evaluations"] == 0  # kept
        calls.clear()


def test_frames_are_timed_without_networks(shared):
    "Views are different pictures, and what the networks predict is there before the clock runs."
    explorer = shared
    views, calls = tool.some_views(explorer, 24, random.Random(0)), []
    explorer.on_evaluation = calls.append
    assert len({explorer.png(v) for v in views}) > 20
    assert not calls
    assert {v.rows for v in views} == {1, 2}
    assert len({v.step for v in views}) > 3
    assert len({v.swept for v in views}) > 2
    assert len({v.place for v in views}) == 2


def test_the_figure_shows_the_same_panels(shared, monkeypatch):
    import mmccd.viz

    explorer, drawn, real = shared, [], mmccd.viz.show_panels
    monkeypatch.setattr(mmccd.viz, "show_panels", lambda panels, **more: drawn.extend(panels) or real(panels, **more))
    view = explorer.first_view()
    assert tool.as_figure(explorer, view)[:4] == b"\x89PNG"
    for panel, tile in zip(drawn, explorer.tiles(view), strict=True):
        np.testing.assert_array_equal(panel["image"], tile.pixels)


def test_strips_are_new(few):
    ways = tool.bench_strip(SimpleNamespace(device="cpu", quick=True), TINY | {"positions": 4})
    assert set(ways) == {"cpu"}
    assert ways["cpu"]["strip"]["evaluations"] == [9]
    assert len(ways["cpu"]["strip"]["seconds"]["runs"]) == 4


# the kernel


def test_a_block_holds_the_same_and_begins_with_another_subject():
    names = explorer_kernel.plan(500, 50, random.Random(0))
    assert len(names) == 500
    assert [k for k, w in enumerate(names) if w == "subject"] == list(range(50, 500, 50))
    assert sum(explorer_kernel.MIX.values()) == 49
    blocks = [names[k + 1 : k + 50] for k in range(0, 500, 50)]
    assert all({w: b.count(w) for w in b} == explorer_kernel.MIX for b in blocks)
    assert blocks[0] != blocks[1]
    assert names == explorer_kernel.plan(500, 50, random.Random(0)) != explorer_kernel.plan(500, 50, random.Random(1))


@pytest.fixture(scope="module")
def panel(subject):
    return explore(subject, device="cpu")


def test_every_kind_of_interaction_changes_what_is_shown(panel):
    rng = random.Random(0)
    for what in explorer_kernel.MIX:
        before, shown = panel.shown, panel.controls["picture"].value
        asyncio.run(explorer_kernel.interact(panel, [what], rng))
        changed = {f.name for f in fields(before) if getattr(before, f.name) != getattr(panel.shown, f.name)}
        assert what in changed
        assert panel.controls["picture"].value != shown, what


def test_an_interaction_that_fails_ends_the_bench(panel, monkeypatch):
    monkeypatch.setattr(panel.explorer, "png", lambda view: 1 / 0)
    with pytest.raises(RuntimeError, match=r"threshold: .*ZeroDivisionError"):
        asyncio.run(explorer_kernel.interact(panel, ["threshold"], random.Random(0)))


def test_the_slope_is_of_the_second_half():
    at = list(range(0, 501, 10))
    assert explorer_kernel.slope(at, [300 + 0.03 * n for n in at]) == pytest.approx(3)
    assert explorer_kernel.slope(at, [300 + min(n, 250) for n in at]) == pytest.approx(0, abs=1e-9)
    assert explorer_kernel.slope(at, [300 + 5 * (n // 50) for n in at]) == pytest.approx(
        10, rel=0.1
    )  # subjects that are never let go
    assert explorer_kernel.slope(at, [300 + 40 * (n > 450) for n in at]) < 1  # one large subject, the last


def test_memory_of_a_real_kernel(monkeypatch):
    "It grows by what is kept on purpose."
    monkeypatch.setattr(explorer_kernel, "CELL", explorer_kernel.CELL + "\nhoard = bytearray(b'x' * 2 ** 27)")
    m = tool.bench_memory(SimpleNamespace(quick=True), tool.QUICK | {"interactions": 4, "block": 4, "every": 2})
    assert m["interactions"] == [0, 2, 4]
    assert len(m["resident_mb"]) == 3
    assert min(m["resident_mb"]) > 128 + 100
    assert max(m["kept_mb"]) > 0


def test_a_kernel_that_fails_says_why():
    with explorer_kernel.Kernel() as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
        with pytest.raises(ValueError, match="the kernel says ZeroDivisionError: division by zero"):
            kernel.run("1 / 0")
    assert not kernel.process.is_running()


# the record


def test_the_record_holds_what_was_measured(tmp_path, few, monkeypatch, capsys):
    monkeypatch.setattr(tool, "QUICK", TINY)
    tool.main(["--quick", "--parts", "render", "strip", "--out", str(tmp_path / "r.json")])
    r = json.loads((tmp_path / "r.json").read_text())
    assert r["command"] == "python benchmarks/explorer.py --quick --parts render strip"
    assert r["keys"] is r["memory"] is None
    assert r["left_out"] == {"keys": "not asked for", "memory": "not asked for"}
    check(r)
    by = {g["name"]: g for g in r["goals"]}
    assert by["a frame, everything computed: ms"]["measured"] == r["render"]["frame_ms"]["median"]
    assert sum(g["measured"] is None for g in r["goals"]) == len(r["goals"]) - 2
    assert {g["met"] for g in r["goals"]} == {None}
    said = capsys.readouterr().out
    assert said.count("not measured") == len(r["goals"]) - 2
    assert said.count("too few runs to say") == 2
    assert "keys left out: not asked for" in said


def check(r):
    "The numbers of a record follow from its runs, and the goals from the numbers."

    def walk(x):
        if isinstance(x, dict) and "runs" in x:
            for name, share in (("median", 50), ("p10", 10), ("p90", 90)):
                assert x[name] == pytest.approx(np.percentile(x["runs"], share), rel=1e-3)
        for v in x.values() if isinstance(x, dict) else x if isinstance(x, list) else ():
            walk(v)

    walk(r)
    assert [{k: v for k, v in g.items() if k != "measured"} for g in tool.goals(r)] == [
        {k: v for k, v in g.items() if k != "measured"} for g in r["goals"]
    ]
    for g in r["goals"]:
        assert g["met"] == (None if g["measured"] is None or r["quick"] else g["measured"] <= g["goal"])
    if r["render"]:
        assert r["render"]["matplotlib / frame"] == pytest.approx(
            r["render"]["matplotlib_ms"]["median"] / r["render"]["frame_ms"]["median"], rel=1e-3
        )
    if m := r["memory"]:
        assert m["mb_per_100"] == pytest.approx(
            explorer_kernel.slope(m["interactions"], m["resident_mb"]), rel=1e-2, abs=1e-2
        )


def test_goals_can_be_missed():
    slow = {
        "render": {"frame_ms": {"median": 15.1}},
        "strip": {"cpu": {"strip": {"seconds": {"median": 1.5}}}},
        "keys": {"voila": {"step": {"median": 101.0}}, "lab": {"step": {"median": 101.0}}},
        "memory": {"mb_per_100": 2.1},
    }
    met = {g["name"].split(":")[0]: g["met"] for g in tool.goals(slow)}
    assert met == {
        "a frame, everything computed": False,
        "a new strip with fast on a CPU": True,
        "a new strip with fast on a GPU": None,
        "key press to changed picture in Voila, step": False,
        "key press to changed picture in Voila, threshold": None,
        "key press to changed picture in JupyterLab, step": True,
        "key press to changed picture in JupyterLab, threshold": None,
        "memory of a kernel, second half": False,
    }


def test_without_chromium_the_rest_is_measured(monkeypatch):
    monkeypatch.setattr(browser, "chromium", lambda: None)
    args = tool.options([])
    assert tool.impossible("keys", args) == "not installed: Chromium"
    assert tool.impossible("memory", args) == tool.impossible("render", args) == ""
    args.device = "cuda"
    assert tool.impossible("memory", args) == "measured with --device cpu, not on cuda"
    assert tool.impossible("strip", args) == ""


def test_what_cannot_be_done_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="cannot write"):
        tool.main(["--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(SystemExit):
        tool.main(["--parts", "colours"])
    assert "colours" in capsys.readouterr().err


def test_kept_record():
    if not tool.RESULT.exists():
        pytest.skip("data/results/bench_explorer.json has not been made")
    r = json.loads(tool.RESULT.read_text())
    check(r)
    assert r["command"].split()[1] in ("tools/bench_explorer.py", "benchmarks/explorer.py")
    assert "--quick" not in r["command"]
    assert r["render"]
    assert r["strip"]
