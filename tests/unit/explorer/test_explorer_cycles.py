"The explorer computes what the detector computes: the same view is the same picture, whatever was looked at before."

from dataclasses import fields, replace
from io import BytesIO

import numpy as np
import pytest
import torch
from explorer_toys import OTHERS, PAIRS, counted, own_detector, same_tile, slices_of, untrained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from mmccd.detector import calibrate, load_detector, save_detector
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.networks import sampler_for
from mmccd.explorer.subjects import Subject
from mmccd.explorer.view import SWEEPS, View
from mmccd.masked_diffusion import MMCCD, SAMPLERS, MaskedUNet, Sampler
from mmccd.masking import pool, strip
from mmccd.scoring import dice, precision, recall


@st.composite
def views(draw, places):
    def pick(*values):
        return draw(st.sampled_from(values))

    (i, o), width, steps = pick(*PAIRS), pick(2, 4, 11), draw(st.integers(1, 3))
    return View(
        place=pick(*places),
        input=i,
        target=o,
        start=draw(st.integers(1 - width, 31)),
        width=width,
        vertical=pick(True, False),
        sampler=pick("fast", "one by one"),
        steps=steps,
        step=draw(st.integers(1, steps)),
        swept=draw(st.integers(0, 3)),
        by_hand=pick(True, False),
        seed=pick(0, 7),
        threshold=pick(0.0, 0.5, 1.2),
        twin=pick(True, False),
        rows=pick(1, 2),
    )


@pytest.fixture(scope="module")
def used(full_toy, run):
    return Explorer(full_toy, run, megabytes=0.06)  # so little that much is dropped and computed again


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_was_shown_before_changes_nothing(full_toy, run, used, data):
    shown = [used.nearest_view(v) for v in data.draw(st.lists(views(used.places), min_size=1, max_size=4))]
    for v in shown:
        used.png(v), used.describe(v)
    fresh = Explorer(full_toy, run)
    for v in data.draw(st.permutations(shown))[:2]:
        assert fresh.png(v) == used.png(v)
        assert fresh.describe(v) == used.describe(v)
    assert used.traces.size <= used.traces.limit
    assert used.traces.size == sum(size for _, size in used.traces.values())


def test_the_threshold_moves_its_mark_and_what_is_found_only(explorer, view):
    a, b = (explorer.tiles(replace(view, swept=2, threshold=h)) for h in (0.3, 0.9))
    differ = [t.title for t, u in zip(a, b) if not same_tile(t, u)]
    assert differ == ["map, 2 of 4", "found, truth"]
    assert np.array_equal(a[8].pixels, b[8].pixels)
    assert a[8].marks != b[8].marks
    assert not np.array_equal(a[9].pixels, b[9].pixels)
    assert not counted(explorer, lambda: explorer.png(replace(view, swept=2, threshold=0.7)))


def test_the_step_moves_x_t_and_predicted_only(explorer, view):
    a, b = (explorer.tiles(replace(view, step=k)) for k in (1, 2))
    assert [t.title for t, u in zip(a, b) if not same_tile(t, u)] == ["xₜ: noisy T1", "predicted T1"]


@pytest.mark.parametrize(("weights", "input", "target"), [("mmccd", "t2", "flair"), ("masked", "t1", "t2")])
def test_a_full_sweep_is_the_anomaly_map(subject, explorer, weights, input, target):
    e = explorer if weights == "mmccd" else Explorer(subject, weights)
    steps = load_detector(f"{weights}-{input}-{target}").config.sampler.steps
    v = e.first_view(input=input, target=target, seed=3, steps=steps)
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
    [
        dict(normalise_by="healthy_mean"),
        dict(cls=MaskedUNet),
        dict(sampler=Sampler("disjoint", n_strips=4, steps=3)),
    ],
    ids=["divide", "masked", "steps"],
)
def test_own_runs(options, toy, tmp_path):
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


def test_networks_that_know_one_pair_show_one_pair(toy, tmp_path):
    e = Explorer(toy, untrained(tmp_path / "run", modalities=(), input="flair", target="t1"))
    assert e.pairs == [("flair", "t1")]
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
    n_strips = {("one by one", 8): 1, ("fast", 11): 2, ("fast", 40): 1, ("paper", 6): 1}[sampler, width]
    family = replace(SWEEPS[sampler], width=width, n_strips=n_strips).family(64)
    hiding = torch.stack([m for m in family if (m & brain[0]).any()])
    assert torch.equal(explorer.masks(v), hiding)
    d, traces, one_step = own_detector(explorer, v), [], replace(SWEEPS[sampler], steps=1)

    def trace(mask):
        with torch.no_grad():
            return d.trace(x, mask[None], brain, torch.Generator().manual_seed(0), one_step)

    def pooled(traces, masks):
        "The map from these masks alone, by hand."
        error, back = (pool(torch.cat([getattr(t, w) for t in traces]), masks) for w in ("error", "reconstruction"))
        hidden = masks.any(0) & brain[0]
        back = torch.where(hidden, back, torch.where(brain[0], x[0], -1.0))
        with torch.no_grad():
            return torch.where(hidden, d.error_map(error[None], back[None], brain)[0], 0.0)

    for k in range(1, min(len(hiding), 3) + 1):
        traces.append(trace(hiding[k - 1]))
        found = explorer.map(replace(v, swept=k))
        torch.testing.assert_close(found, pooled(traces, hiding[:k]), atol=1e-4, rtol=1e-4)
    mask = strip(64, v.start, width, v.vertical)
    found = explorer.map(replace(v, swept=0, by_hand=True))
    torch.testing.assert_close(found, pooled([trace(mask)], mask[None]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [32, 64])
def test_a_sweep_never_hides_more_than_half_at_once(size):
    "But for a strip that is wider than half by itself; and every pixel has its turn, once a way."
    for width in range(1, size + 1):
        masks = sampler_for(View(80, width=width), size).family(size)
        vertical, horizontal = masks[: len(masks) // 2, 0], masks[len(masks) // 2 :, 0]
        assert (vertical.sum(0) == 1).all()
        assert torch.equal(vertical.mT, horizontal)
        assert vertical[:, 0].sum(1).max() <= max(size // 2, width), width
        assert (width == size) == bool(masks.all()), width
        assert sampler_for(View(80, sampler="paper", width=width), size) == replace(
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
    e = Explorer(Subject(replace(toy.case, lesion=lesion), None, ""), run)
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


@pytest.mark.parametrize("name", [f.name for f in fields(View)])
def test_every_field_matters(explorer, view, name):
    base = replace(view, place=81, swept=2, by_hand=name in ("start", "vertical"))
    other = replace(base, **{name: OTHERS[name]})
    assert other != base
    assert explorer.png(other) != explorer.png(base)
    assert (explorer.describe(other) != explorer.describe(base)) == (name != "rows")
    assert explorer.lines(other) != explorer.lines(base)
