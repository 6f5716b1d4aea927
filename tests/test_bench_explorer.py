"""The bench of the explorer: it counts what it times, its clock waits for changed pixels, and its kernel does what a person does."""

import asyncio
import json
import random
import subprocess
import sys
from dataclasses import fields
from types import SimpleNamespace

import bench_explorer as tool
import browser
import numpy as np
import pytest

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import explore
from mmccd.explorer.subjects import phantom_subject
from mmccd.runtime import single_thread

TINY = tool.QUICK | {"views": 6, "figures": 2}


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def subject():
    return phantom_subject(slices=range(80, 84))


@pytest.fixture
def few(monkeypatch, subject):
    "Networks as they ship, a subject of four slices."
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


def test_frames_are_timed_without_networks(few):
    "Views are different pictures, and what the networks say is there before the clock runs."
    explorer = Explorer(few)
    views, calls = tool.some_views(explorer, 24, random.Random(0)), []
    explorer.before = calls.append
    assert len({explorer.png(v) for v in views}) > 20
    assert not calls
    assert {v.rows for v in views} == {1, 2}
    assert len({v.step for v in views}) > 3
    assert len({v.swept for v in views}) > 2
    assert len({v.place for v in views}) == 2


def test_the_figure_shows_the_same_panels(few, monkeypatch):
    import mmccd.viz

    explorer, drawn, real = Explorer(few), [], mmccd.viz.show_panels
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


# the page

PAGE = """<div class="x-step"><div class="noUi-handle" tabindex="0" role="slider" aria-valuenow="{now}" aria-valuemax="8">o</div></div><img class="x-picture"><script>{{
const paint = colour => new Promise(done => {{ const c = document.createElement('canvas'); c.width = c.height = 40; const g = c.getContext('2d'); g.fillStyle = colour; g.fillRect(0, 0, 40, 40);
  c.toBlob(b => {{ document.querySelector('img').src = URL.createObjectURL(b); done() }}) }});
const wait = ms => new Promise(done => setTimeout(done, ms)); window.keys = []; window.wire = []; window.paint = paint; paint('grey'); let n = 0;
document.querySelector('.noUi-handle').addEventListener('keydown', async e => {{ keys.push(e.key); wire.push(['sent', performance.now(), 99], ['got', performance.now() + 1, 500]);
  await wait(60); await paint(n ? (n % 2 ? 'red' : 'blue') : 'grey');
  await wait(240); wire.push(['got', performance.now(), 9000]); await paint((n += 1) % 2 ? 'red' : 'blue') }}) }}</script>"""


@pytest.fixture
def p():  # of one test: while Playwright runs, asyncio belongs to it
    if lacks := browser.missing("voila"):
        pytest.skip(lacks)
    with browser.page(400, 300) as p:
        yield p


def made(p, now=1):
    p.set_content(PAGE.format(now=now))
    assert browser.other_pixels(p, ".x-picture", None)


def test_the_clock_waits_for_other_pixels(p):
    "A new address with the same pixels comes after 60 ms, another picture after 300: the clock says the latter."
    made(p)
    one = tool.press(p, ".x-step .noUi-handle")
    assert one["ms"] >= 300
    assert sum(one["stages"].values()) == pytest.approx(one["ms"])
    assert one["stages"]["server and kernel"] >= 240
    assert min(one["stages"].values()) >= 0
    assert p.evaluate("keys") == ["ArrowRight"]


def test_the_clock_begins_with_the_key(p):
    "A picture that changes before it is not its doing."
    made(p)
    p.evaluate(tool.WATCH, ".x-picture")
    before = browser.pixels(p, ".x-picture")
    p.evaluate("paint('green')")
    browser.other_pixels(p, ".x-picture", before)
    p.evaluate(
        "new Promise(done => { let n = 10; (function next() { n-- ? requestAnimationFrame(next) : done() })() })"
    )
    assert p.evaluate("[window.seen.key, window.seen.frame]") == [None, None]


def test_presses_go_on_at_the_end_of_the_slider(p):
    "And the first of them is not counted."
    made(p, now=8)
    got = tool.presses(p, "step", 2)
    assert p.evaluate("keys") == ["Home", "ArrowRight"] * 3
    assert len(got["runs"]) == 2
    assert got["median"] == pytest.approx(np.median(got["runs"]))
    assert got["median"] >= 300


# the kernel


def test_a_block_holds_the_same_and_begins_with_somebody_else():
    whats = tool.plan(500, 50, random.Random(0))
    assert len(whats) == 500
    assert [k for k, w in enumerate(whats) if w == "subject"] == list(range(50, 500, 50))
    assert sum(tool.MIX.values()) == 49
    blocks = [whats[k + 1 : k + 50] for k in range(0, 500, 50)]
    assert all({w: b.count(w) for w in b} == tool.MIX for b in blocks)
    assert blocks[0] != blocks[1]
    assert whats == tool.plan(500, 50, random.Random(0)) != tool.plan(500, 50, random.Random(1))


def test_every_kind_of_interaction_changes_what_is_seen(subject):
    panel, rng = explore(subject, device="cpu"), random.Random(0)
    for what in tool.MIX:
        before, shown = panel.seen, panel.knobs["picture"].value
        asyncio.run(tool.interact(panel, [what], rng))
        changed = {f.name for f in fields(before) if getattr(before, f.name) != getattr(panel.seen, f.name)}
        assert what in changed and panel.knobs["picture"].value != shown, what


def test_an_interaction_that_fails_ends_the_bench(subject, monkeypatch):
    panel = explore(subject, device="cpu")
    monkeypatch.setattr(panel.explorer, "png", lambda view: 1 / 0)
    with pytest.raises(RuntimeError, match="threshold: .*ZeroDivisionError"):
        asyncio.run(tool.interact(panel, ["threshold"], random.Random(0)))


def test_the_slope_is_of_the_second_half():
    at = list(range(0, 501, 10))
    assert tool.slope(at, [300 + 0.03 * n for n in at]) == pytest.approx(3)
    assert tool.slope(at, [300 + min(n, 250) for n in at]) == pytest.approx(0, abs=1e-9)
    assert tool.slope(at, [300 + 5 * (n // 50) for n in at]) == pytest.approx(
        10, rel=0.1
    )  # subjects that are never let go
    assert tool.slope(at, [300 + 40 * (n > 450) for n in at]) < 1  # one large subject, the last


def test_memory_of_a_real_kernel(monkeypatch):
    "It grows by what is kept on purpose."
    monkeypatch.setattr(tool, "CELL", tool.CELL + "\nhoard = bytearray(b'x' * 2 ** 27)")
    m = tool.bench_memory(SimpleNamespace(quick=True), tool.QUICK | {"interactions": 4, "block": 4, "every": 2})
    assert m["interactions"] == [0, 2, 4]
    assert len(m["resident_mb"]) == 3
    assert min(m["resident_mb"]) > 128 + 100
    assert max(m["kept_mb"]) > 0


def test_a_kernel_that_fails_says_why():
    with tool.Kernel() as kernel:
        assert kernel.run("print(6 * 7)") == "42\n"
        held = kernel.resident
        kernel.run("hoard = bytearray(b'x' * 2 ** 27)")
        assert 120 < kernel.resident - held < 140
        with pytest.raises(ValueError, match="the kernel says ZeroDivisionError: division by zero"):
            kernel.run("1 / 0")
    assert not kernel.process.is_running()


# the record


def test_the_record_holds_what_was_measured(tmp_path, few, monkeypatch, capsys):
    monkeypatch.setattr(tool, "QUICK", TINY)
    tool.main(["--quick", "--parts", "render", "strip", "--out", str(tmp_path / "r.json")])
    r = json.loads((tmp_path / "r.json").read_text())
    assert r["command"] == "python tools/bench_explorer.py --quick --parts render strip"
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
        assert m["mb_per_100"] == pytest.approx(tool.slope(m["interactions"], m["resident_mb"]), rel=1e-2, abs=1e-2)


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


def test_what_cannot_be_done_is_refused(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, tool.__file__, *words], capture_output=True, text=True)

    no = run("--out", str(tmp_path / "no" / "r.json"))
    assert no.returncode == 2
    assert no.stderr.startswith("error: cannot write")
    assert len(no.stderr.splitlines()) == 1
    assert run("--parts", "colours").returncode == 2


def test_kept_record():
    if not tool.RESULT.exists():
        pytest.skip("data/results/bench_explorer.json has not been made")
    r = json.loads(tool.RESULT.read_text())
    check(r)
    assert r["command"].startswith("python tools/bench_explorer.py")
    assert "--quick" not in r["command"]
    assert r["render"]
    assert r["strip"]
