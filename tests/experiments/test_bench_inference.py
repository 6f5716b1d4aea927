"""The bench of masked cycles: the loop it writes out is what our samplers compute, and it counts what it times."""

import json

import inference as tool
import numpy as np
import pytest
import torch

from mmccd.detector import load_detector
from mmccd.masked_diffusion import MMCCD
from mmccd.masked_translation import Sampler
from mmccd.runtime import single_thread

FEW = Sampler("published", steps=3, spacing="leading")
FULL = 32 * 4  # 32 strips of 16x16, three steps there and one back


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "A network of six ways whose weights are random, kept in a folder."
    torch.manual_seed(0)
    d = MMCCD(size=16, modalities=("flair", "t1", "t2"), unet=dict(channels=8, mults=(1, 2), blocks=1, attention=()))
    for p in d.parameters():
        torch.nn.init.normal_(p, std=0.2)  # an untrained U-Net of ours ends in zeros
    return d.for_pair("t1", "t2").save_pretrained(tmp_path_factory.mktemp("bench") / "toy")


@pytest.fixture
def quick(monkeypatch):
    "Three steps instead of a hundred."
    monkeypatch.setitem(tool.SAMPLER, "paper", FEW)


def two_slices():
    x, brain = (
        torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2, 1, 16, 16, dtype=bool),
    )
    brain[0, :, 4:10, 6:15] = brain[1, :, 1:5, 1:4] = True
    return x, brain


@torch.no_grad()
def run(way, toy, **how):
    timed, warm, calls = tool.prepare_way(way, load_detector(toy), *two_slices(), tool.Arithmetic(**how))
    warm()
    return timed(), calls()


def test_the_loop_and_our_sampler_agree(toy, quick):
    "And ours looks at fewer masks, as both brains are small."
    (loop, n), (ours, m) = run("loop", toy), run("paper", toy)
    torch.testing.assert_close(ours, loop, rtol=1e-4, atol=1e-5 * loop.max().item())
    assert n == 2 * FULL > m
    assert loop[two_slices()[1]].std() > 0.01
    assert tool.map_distance(ours.numpy(), loop.numpy(), two_slices()[1].numpy())["share"] < 0.02
    fast, few = run("fast", toy)
    assert few < m
    assert not torch.allclose(fast, loop, rtol=0.02)


def test_the_noise_counts(toy, quick):
    "The agreement is that of the same noise: with another start the loop says something else."
    x, brain = two_slices()
    net = tool.CountedNetworks(load_detector(toy), brain)
    with torch.no_grad():
        a, b = (
            tool.published_loop(
                net.f,
                net.g,
                tool.fill_background(x, brain),
                torch.full((1, 1, 16, 16), v),
                torch.zeros(1, 1, 16, 16),
                steps=1,
            )
            for v in (0.0, 1.0)
        )
    assert (a - b).abs().max() > 1e-3


@pytest.mark.parametrize("way", ["loop", "paper", "fast"])
def test_evaluations_are_those_that_happen(toy, quick, way, monkeypatch):
    calls, with_config = [], tool.with_config

    def listened(d):
        for net in (d.f.net, d.g):
            net.register_forward_hook(lambda _, x, __: calls.append(len(x[0])))
        return d

    if way != "loop":
        monkeypatch.setattr(tool, "with_config", lambda *args, **kwargs: listened(with_config(*args, **kwargs)))
    timed, _, said = tool.prepare_way(
        way, load_detector(toy) if way != "loop" else listened(load_detector(toy)), *two_slices()
    )
    with torch.no_grad():
        timed()
    assert sum(calls) == said() > 0


def test_the_published_loop_at_its_published_size():
    "12,928 network evaluations; a way back that always says 0 leaves x squared, however often a pixel was hidden."
    calls, x, zero = [], torch.rand(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)

    def there(y, cond, t):
        calls.append(t)
        return zero

    def back(y):
        calls.append(-1)
        return zero

    a = tool.published_loop(there, back, x, zero, zero)
    torch.testing.assert_close(a, x**2)
    assert len(calls) == 12_928
    assert calls[:101] == [*range(990, -1, -10), -1]


def test_the_loop_goes_where_f_points():
    "DDIM without noise ends on the last prediction, and the condition hides the strip alone."
    x, hidden, seen = torch.rand(1, 1, 16, 16), torch.full((1, 1, 16, 16), 9.0), []

    def there(y, cond, t):
        seen.append(cond)
        return torch.full_like(y, t / 1000)

    ends = []

    def back(y):
        ends.append(y)
        return x

    assert tool.published_loop(there, back, x, torch.randn(1, 1, 16, 16), hidden, steps=4).abs().max() == 0
    assert all(torch.equal(y, torch.zeros_like(y)) for y in ends)
    assert len(ends) == 32
    where = [s == 9 for s in seen[::4]]
    assert all(torch.equal(s[~w], x[~w]) for s, w in zip(seen[::4], where))
    assert [int(w.sum()) for w in where] == ([32] * 15 + [16]) * 2
    assert where[3][..., :, 3:5].all()
    assert where[19][..., 3:5, :].all()


def test_a_gpus_arithmetic_is_close(toy, quick):
    "bf16 and channels-last, tried on a CPU."
    (loop, _), (ours, _) = run("loop", toy), run("paper", toy, quick=True, at_once=7)
    share = tool.map_distance(ours.numpy(), loop.numpy(), two_slices()[1].numpy())["share"]
    assert 1e-5 < share < 0.5
    assert ours.dtype == torch.float32


def test_a_process_of_its_own_measures_the_same(toy):
    x, brain = two_slices()
    task = tool.Task("fast", str(toy), "cpu", (x.numpy(), brain.numpy()), repeats=2)
    got, here = tool.in_own_process(task), tool.measure(task)
    np.testing.assert_array_equal(got["map"], here["map"])
    assert got["evaluations"] == here["evaluations"]
    assert len(got["seconds"]) == 2
    assert min(got["seconds"]) > 0
    assert got["peak_mb"] >= got["loaded_mb"] > 50


def test_the_result_holds_what_was_measured(tmp_path, toy, quick, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(tool, "in_own_process", lambda task: asked.append(task.way) or tool.measure(task))
    tool.main(["--weights", str(toy), "--repeats", "2", "--out", str(tmp_path / "r.json")])
    r = json.loads((tmp_path / "r.json").read_text())
    one = r["networks"][str(toy)]
    assert asked == ["fast", "loop", "fast", "paper", "fast"]
    assert set(one["ways"]) == {"loop", "paper", "fast"}
    assert "--out" not in r["command"]
    assert r["recipe"] == "experiments/recipes/bench_inference.yaml"
    assert one["ways"]["loop"]["evaluations"] == FULL
    assert one["ways"]["fast"]["evaluations"] <= 4 * 9
    assert [len(one["ways"][w]["runs"]) for w in ("loop", "paper", "fast")] == [1, 1, 6]
    for w in ("paper", "fast"):
        assert one["ratios"][f"loop / {w}"] == pytest.approx(
            one["ways"]["loop"]["seconds"] / one["ways"][w]["seconds"], rel=1e-2
        )
    fast, gpu, near, *stretch = one["goals"]
    assert fast["met"] == (one["ratios"]["loop / fast"] >= 200)
    assert near["met"]
    assert near["value"] == one["paper against loop"]["share"] <= 0.02
    assert [g["met"] for g in (gpu, *stretch)] == [None] * 3
    assert capsys.readouterr().out.count("not on this machine") == 3


def test_what_cannot_be_done_is_refused(tmp_path):
    with pytest.raises(ValueError, match="its folder does not exist"):
        tool.main(["--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(ValueError, match="must be at least 1"):
        tool.main(["--slices", "0", "--out", str(tmp_path / "r.json")])


def test_a_goal_is_met_or_not_or_not_about_this_machine():
    assert [tool.goal("g", v, least=3)["met"] for v in (2.9, 3)] == [False, True]
    assert [tool.goal("g", v, most=3)["met"] for v in (3, 3.1)] == [True, False]
    assert tool.goal("g", 5, least=3, here=False) == {"goal": "g", "value": None, "met": None}


def test_kept_result_follows_from_its_runs():
    if not tool.RESULT.exists():
        pytest.skip("data/results/bench_inference.json has not been made")
    r = json.loads(tool.RESULT.read_text())
    for one in r["networks"].values():
        assert one["ways"]["loop"]["evaluations"] == 12_928
        assert one["ways"]["fast"]["evaluations"] <= 64
        for way in one["ways"].values():
            assert way["seconds"] == pytest.approx(np.median(way["runs"]), rel=1e-3)
            assert way["peak_mb"] >= way["loaded_mb"] * 0.99
        for w in ("paper", "fast"):
            assert one["ratios"][f"loop / {w}"] == pytest.approx(
                one["ways"]["loop"]["seconds"] / one["ways"][w]["seconds"], rel=1e-2
            )
        near = one["goals"][2]
        assert (
            near["value"]
            == one["paper against loop"]["share"]
            == pytest.approx(
                one["paper against loop"]["max_difference"] / one["paper against loop"]["p99_of_loop"], rel=1e-2
            )
        )
        assert near["met"] == (near["value"] <= 0.02)
