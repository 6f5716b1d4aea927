"Masks: what they hide, how often, in which order; the map of many masks, and the published one from its own numbers."

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from mmccd.masking import (
    MASKS,
    POOLINGS,
    MaskPlan,
    block_masks,
    condition,
    disjoint_masks,
    even_masks,
    pool,
    published_masks,
    random_strips,
    std_over_masks,
    strip,
    strips,
    width_and_step,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def rng(seed):
    return torch.Generator().manual_seed(seed)


def coverage(masks):
    return masks.sum(0)[0]


@st.composite
def strip_sizes(draw, most=40):
    "Size and width that fit."
    size = draw(st.integers(1, most))
    return size, draw(st.integers(1, size))


def some_masks(seed, n=7, size=6, share=0.4):
    return torch.rand(n, 1, size, size, generator=rng(seed)) < share


def some_errors(seed, n=7, size=6):
    return torch.randn(n, 1, size, size, generator=rng(seed + 1)) ** 2


# ---- the condition
@some
@given(seed=seeds)
def test_the_condition_touches_nothing_visible_and_shows_nothing_hidden(seed):
    mask = some_masks(seed, 3)
    x, eps = some_errors(seed, 3), some_errors(seed + 1, 3)
    seen = condition(x, mask, eps)
    assert torch.equal(seen[~mask], x[~mask])
    assert torch.equal(seen[mask], eps[mask])
    bad = torch.tensor(torch.nan)
    assert torch.equal(condition(torch.where(mask, bad, x), mask, torch.where(mask, eps, bad)), seen)
    one = condition(x, mask[:1], eps[:1])  # one mask and one noise for all
    assert all(torch.equal(one[i : i + 1], condition(x[i : i + 1], mask[:1], eps[:1])) for i in range(3))


# ---- families
@some
@given(fit=strip_sizes(), start=st.integers(-45, 45), vertical=st.booleans())
def test_a_strip_is_where_it_is_said(fit, start, vertical):
    size, width = fit
    m = strip(size, start, width, vertical)
    assert m.shape == (1, size, size)
    assert m.dtype == torch.bool
    for i in range(size):
        line = m[0, :, i] if vertical else m[0, i]
        assert line.all() if start <= i < start + width else not line.any()


def test_the_published_masks_in_their_order():
    "Columns first, 16 of 128 pixels wide, every 2; axis 3 of (n 1 h w) is columns."
    masks = published_masks(128)
    assert masks.shape == (128, 1, 128, 128)
    for k in range(128):
        wanted, start = torch.zeros(128, 128, dtype=torch.bool), 2 * (k % 64)
        if k < 64:
            wanted[:, start : start + 16] = True
        else:
            wanted[start : start + 16] = True
        assert torch.equal(masks[k, 0], wanted), k


@pytest.mark.parametrize(("size", "n"), [(32, 64), (64, 128), (128, 128), (192, 128)])
def test_the_published_family_at_other_sizes(size, n):
    assert len(published_masks(size)) == n
    assert published_masks(size)[0].sum() == size * (size // 8)


@some
@given(fit=strip_sizes(), data=st.data())
def test_published_coverage_falls_towards_the_near_border_only(fit, data):
    size, width = fit
    step = data.draw(st.integers(1, width))
    counts, starts = coverage(published_masks(size, width, step)), range(0, size, step)
    each = torch.tensor([sum(s <= i < s + width for s in starts) for i in range(size)])
    assert torch.equal(counts, each[:, None] + each)
    assert each.min() >= 1
    assert each[0] == 1
    if width % step == 0:
        assert (each[width - step :] == width // step).all()
        assert (each.diff() >= 0).all()


@some
@given(fit=strip_sizes(), data=st.data())
def test_the_even_family_hides_each_pixel_equally_often(fit, data):
    size, width = fit
    step = data.draw(st.sampled_from([s for s in range(1, width + 1) if width % s == 0]))
    masks = even_masks(size, width, step)
    assert coverage(masks).eq(2 * width // step).all()
    assert masks.flatten(1).any(1).all()

    def as_set(masks):
        return {m.numpy().tobytes() for m in masks}

    assert as_set(published_masks(size, width, step)) <= as_set(masks)


@pytest.mark.parametrize("name", [n for n in MASKS if n != "published"])
@pytest.mark.parametrize("size", [8, 30, 33, 48, 100])
def test_each_family_is_fair_as_it_comes(name, size):
    for width in (0, 3, size // 2, size):
        n = {"n": 1} if name == "blocks" and width > size // 3 else {}
        masks = MASKS[name](size, width, **n)
        assert masks.dtype == torch.bool
        assert masks.shape[1:] == (1, size, size)
        assert coverage(masks).unique().numel() == 1
        assert coverage(masks).min() >= 1
        assert masks.flatten(1).any(1).all()


def test_the_default_step_divides_the_width():
    for size in range(1, 300, 23):
        (width, most), shifts = width_and_step(size), even_masks(size)[:2, 0, 0].sum(1)
        step = int(shifts[0])  # what is left of the first strip
        assert width % step == 0
        assert step <= most
        assert not any(width % s == 0 for s in range(step + 1, most + 1))


@some
@given(fit=strip_sizes(), data=st.data())
def test_tiles_partition_the_slice_twice(fit, data):
    size, width = fit
    n = -(-size // width)
    together = data.draw(st.integers(1, n))
    masks = disjoint_masks(size, width, together)
    vertical, horizontal = masks.chunk(2)
    assert coverage(vertical).eq(1).all()
    assert coverage(horizontal).eq(1).all()
    assert torch.equal(horizontal, vertical.mT)
    assert (vertical == vertical[:, :, :1]).all()
    assert len(masks) == 2 * -(-n // together)
    assert vertical[:, 0, 0].sum(1).max() <= together * width  # never more strips at once than asked for


def test_tiles_hide_strips_far_apart():
    masks = disjoint_masks(64, 8, 2)
    assert len(masks) == 8
    assert torch.equal(masks[1, 0], (strip(64, 8, 8) | strip(64, 40, 8))[0])
    assert torch.equal(disjoint_masks(64), strips(64, range(0, 64, 8), 8))
    assert disjoint_masks(64, n_strips=8).all()


@some
@given(fit=strip_sizes(24), seed=seeds, data=st.data())
def test_blocks_are_dealt_fairly(fit, seed, data):
    size, width = fit
    side = -(-size // width)
    n = data.draw(st.integers(1, side * side))
    masks = block_masks(size, width, n, rng(seed))
    assert len(masks) == n
    assert coverage(masks).eq(1).all()
    assert torch.equal(masks, block_masks(size, width, n, rng(seed)))
    corners = masks[:, 0, ::width, ::width]
    assert torch.equal(
        corners.repeat_interleave(width, 1).repeat_interleave(width, 2)[:, :size, :size], masks[:, 0]
    )  # whole blocks
    dealt = corners.flatten(1).sum(1)
    assert dealt.sum() == side * side
    assert dealt.max() - dealt.min() <= 1


def test_blocks_without_a_generator_are_the_same_deal_and_draw_nothing():
    torch.manual_seed(5)
    state, first = torch.get_rng_state(), block_masks(32)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(block_masks(32), first)
    assert not torch.equal(block_masks(32, generator=rng(1)), first)


# ---- masks to train with
def lines(mask):
    "The mask as one line of hidden pixels (size,), from whichever direction it has."
    vertical, horizontal = mask[0, :1, :], mask[0, :, :1]
    assert (mask[0] == vertical).all() or (mask[0] == horizontal).all()
    return vertical[0] if (mask[0] == vertical).all() else horizontal[:, 0]


def runs(line):
    "(start, length) of each strip."
    edges = torch.cat([torch.tensor([0]), line.int(), torch.tensor([0])]).diff()
    starts = edges.eq(1).nonzero()[:, 0]
    return list(zip(starts.tolist(), (edges.eq(-1).nonzero()[:, 0] - starts).tolist()))


@some
@given(size=st.integers(1, 48), n=st.integers(1, 6), varied=st.booleans(), seed=seeds)
def test_random_strips_hide_something_and_leave_something(size, n, varied, seed):
    masks = random_strips(n, size, varied, rng(seed))
    assert masks.shape == (n, 1, size, size)
    assert torch.equal(masks, random_strips(n, size, varied, rng(seed)))
    for m in masks:
        line, widest = lines(m), max(size // 4, 1) if varied else max(size // 8, 1)
        assert 1 <= line.sum() <= size / 2 + widest / 2
        for _, length in runs(line):
            assert length <= widest


def test_plain_strips_are_an_eighth_wide_wherever_they_lie_within():
    found = [runs(lines(m)) for m in random_strips(400, 32, generator=rng(0))]
    assert all(len(r) == 1 for r in found)
    inside = [w for ((s, w),) in found if s > 0 and s + w < 32]
    assert set(inside) == {4}
    assert len(inside) > 300
    assert {w for ((s, w),) in found} == {1, 2, 3, 4}


def test_varied_strips_vary_in_about_half_of_the_masks():
    found = [runs(lines(m)) for m in random_strips(2000, 64, True, rng(0))]
    inside = [{w for s, w in r if s > 0 and s + w < 64} for r in found]
    assert all(len(w) <= 1 for w in inside)  # strips of a mask are equally wide
    widths = [w for r in inside for w in r]
    assert set(widths) == set(range(4, 17))
    assert max(map(len, found)) in (4, 5)
    usual = sum(len(r) == 1 and w <= {8} for r, w in zip(found, inside)) / len(found)
    assert 0.45 < usual < 0.75


@pytest.mark.parametrize("varied", [False, True])
@pytest.mark.parametrize("size", [16, 19])
def test_random_strips_are_fair(size, varied):
    "Each pixel is hidden equally often, up to six standard errors; both directions alike."
    masks = random_strips(20_000, size, varied, rng(0))
    often = masks.float().mean(0)[0]
    assert (often - often.mean()).abs().max() < 6 * (often.mean() * (1 - often.mean()) / len(masks)).sqrt()
    vertical = (masks == masks[:, :, :1]).flatten(1).all(1).float().mean()
    assert abs(vertical - 0.5) < 6 * 0.5 / len(masks) ** 0.5


# ---- one map of many masks
@some
@given(seed=seeds, n=st.integers(1, 8), share=st.sampled_from([0.1, 0.5, 1.0]))
def test_pool_and_spread_pixel_by_pixel(seed, n, share):
    e, m = some_errors(seed, n), some_masks(seed, n, share=share)
    by_hand = {"mean": np.mean, "min": np.min, "median": lambda v: np.sort(v)[(len(v) - 1) // 2], "spread": np.std}
    for how, rule in by_hand.items():
        a = std_over_masks(e, m) if how == "spread" else pool(e, m, how)
        for i in range(6):
            for j in range(6):
                hidden = e[m[:, 0, i, j], 0, i, j].double().numpy()
                assert float(a[0, i, j]) == pytest.approx(rule(hidden) if len(hidden) else 0, abs=1e-5)


@settings(some, max_examples=10)
@given(seed=seeds, c=st.floats(0, 100))
def test_pool_laws(seed, c):
    e, m = some_errors(seed), some_masks(seed)
    for how in POOLINGS:
        assert pool(torch.zeros_like(e), m, how).eq(0).all()  # a perfect reconstruction
        assert_close(pool(torch.full_like(e, c), m, how), torch.where(m.any(0), c, 0.0))  # a constant error
        assert torch.equal(pool(torch.where(m, e, torch.nan), m, how), pool(e, m, how))  # only the hidden counts
        back = torch.arange(len(m)).flip(0)
        assert_close(pool(e[back], m[back], how), pool(e, m, how))  # no mask comes first
        assert (pool(e, m, "min") <= pool(e, m, how) + 1e-6).all()
    assert_close(std_over_masks(torch.full_like(e, c), m), torch.zeros(1, 6, 6), atol=1e-4 + 1e-5 * c, rtol=0)


@some
@given(seed=seeds, family=st.sampled_from(list(MASKS)))
def test_idle_masks_change_no_bit(seed, family):
    masks, brain = MASKS[family](16), torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    a, b, c, d = torch.randint(16, (4,), generator=rng(seed)).tolist()
    brain[..., min(a, b) : max(a, b) + 1, min(c, d) : max(c, d) + 1] = True
    keep, e = MaskPlan(masks, brain).hides[0], some_errors(seed, len(masks), 16)
    for how in POOLINGS:
        assert torch.equal(pool(e, masks, how)[brain[0]], pool(e[keep], masks[keep], how)[brain[0]])


@pytest.mark.parametrize("how", POOLINGS)
def test_no_mask_at_all_is_no_verdict(how):
    none = torch.zeros(0, 1, 5, 5)
    assert torch.equal(pool(none, none.bool(), how), torch.zeros(1, 5, 5))
    assert torch.equal(std_over_masks(none, none.bool()), torch.zeros(1, 5, 5))


# ---- the plan
@some
@given(
    seed=seeds, batch_size=st.integers(1, 40), slices=st.integers(0, 4), skip=st.booleans(), steps=st.integers(1, 100)
)
def test_a_plan_visits_each_pair_once(seed, batch_size, slices, skip, steps):
    masks, brain = some_masks(seed, 9, share=0.1), some_masks(seed + 7, 4, share=0.1)[:slices]
    if slices > 1:
        brain[0] = False  # a slice without brain
    wanted = [(i, k) for i in range(slices) for k in range(9) if not skip or (masks[k] & brain[i]).any()]
    plan = MaskPlan(masks, brain, batch_size, skip)
    batches = list(plan)
    assert [(int(i), int(k)) for s, m in batches for i, k in zip(s, m)] == wanted  # slice after slice, mask after mask
    assert len(batches) == len(plan) == -(-len(wanted) // batch_size)
    assert all(len(s) == len(m) == batch_size for s, m in batches[:-1])
    assert plan.cost(steps) == sum(steps + 1 for _ in wanted)
    assert plan.hides.shape == (slices, 9)
    assert [(int(i), int(k)) for s, m in plan for i, k in zip(s, m)] == wanted  # it can be gone through again


def test_the_published_cost():
    assert MaskPlan(published_masks(128), torch.zeros(1, 1, 128, 128, dtype=torch.bool), skip=False).cost(100) == 12_928


def test_nothing_to_look_at():
    plan = MaskPlan(disjoint_masks(16), torch.zeros(2, 1, 16, 16, dtype=torch.bool))
    assert list(plan) == []
    assert len(plan) == plan.cost(100) == 0


# ---- the published map from its own numbers
@pytest.fixture(params=["paper_protocol", "paper_protocol_edges"])
def golden(request):
    path = GOLDEN / f"{request.param}.npz"
    if not path.exists():
        pytest.skip("the published implementation's numbers are not here")
    g = np.load(path)
    found = {k: torch.from_numpy(g[f"agg_{k}"].astype(np.float32)) for k in ("img", "pred", "brain", "error_map")}
    found["errors"] = (found["pred"] - found["img"]) ** 2  # (128 images 1 128 128)
    return found | {"edges": "edges" in request.param}


def scaled(a):
    return (a - a.min()) / (a.max() - a.min())  # min-max on purpose: the published one, over all images


def test_the_published_map(golden):
    "Our masks in our order and our mean make it, up to its min-max over all images, which we do not do."
    masks = published_masks(128)
    ours = torch.stack([pool(e, masks) for e in golden["errors"].unbind(1)])
    assert_close(scaled(ours), golden["error_map"], rtol=1e-5, atol=1e-5)


def test_what_the_published_map_is_not(golden):
    "A mean and not a sum, scaled before the brain is cut out: images with brain at the border show it."
    masks = published_masks(128)

    def far(a):
        return (scaled(a) - golden["error_map"]).abs().max() > 0.01

    def maps(m):
        return torch.stack([pool(e, m) for e in golden["errors"].unbind(1)])

    assert far(maps(masks.mT))  # rows first
    assert far(golden["errors"].mean(0))  # visible pixels judged too
    added = torch.where(masks[:, None], golden["errors"], 0.0).sum(0)
    assert far(added) == golden["edges"]
    assert far(maps(masks) * golden["brain"]) == golden["edges"]


# ---- what cannot be
MASK, BRAIN = torch.zeros(3, 1, 8, 8, dtype=torch.bool), torch.zeros(2, 1, 8, 8, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: published_masks(0), ("at least 1 pixel", "got 0")),
        (lambda: published_masks(64, 65), ("width", "1 to 64", "got 65")),
        (lambda: even_masks(64, -1), ("width", "1 to 64", "got -1")),
        (lambda: disjoint_masks(8, 9), ("width", "1 to 8", "got 9")),
        (lambda: block_masks(8, 9), ("width", "1 to 8", "got 9")),
        (lambda: published_masks(64, 8, 9), ("step", "1 to 8", "gaps", "got 9")),
        (lambda: published_masks(64, 8, -2), ("step", "1 to 8", "got -2")),
        (lambda: even_masks(64, 8, 3), ("divisor", "8", "got 3")),
        (lambda: even_masks(64, 8, -1), ("step", "got -1")),
        (lambda: strip(8, 0, 0), ("at least 1 pixel wide", "got 0")),
        (lambda: disjoint_masks(64, 8, 0), ("1 to 8 strips", "got 0")),
        (lambda: disjoint_masks(64, 8, n_strips=-1), ("1 to 8 strips", "got -1")),
        (lambda: disjoint_masks(64, 8, n_strips=9), ("1 to 8 strips", "got 9")),
        (lambda: block_masks(64, n=0), ("64 blocks", "1 to 64 masks", "got 0")),
        (lambda: block_masks(8, 4, n=5), ("4 blocks", "1 to 4 masks", "got 5")),
        (lambda: random_strips(0, 64), ("at least 1 sample", "got 0")),
        (lambda: random_strips(4, 0), ("at least 1 pixel", "got 0")),
        (
            lambda: condition(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)),
            ("True or False", "float32"),
        ),
        (lambda: pool(MASK.float(), MASK, "max"), ("'max'", "mean, min, median")),
        (lambda: pool(MASK.float()[:2], MASK), ("own mask", "(2, 1, 8, 8)", "(3, 1, 8, 8)")),
        (lambda: MaskPlan(MASK, BRAIN, 0), ("at least 1 pair", "got 0")),
        (lambda: MaskPlan(MASK, torch.zeros(2, 1, 9, 8, dtype=torch.bool)), ("one size", "(1, 8, 8)", "(1, 9, 8)")),
    ],
)
def test_one_sentence(call, words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(w in str(error.value) for w in words)
    assert "\n" not in str(error.value)
