"""Slices, sizes and splits: laws over random shapes, against other libraries, and every way a list can be written."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cases import write_case

from mmccd.cases.case import Case
from mmccd.cases.grid import protocol_slices
from mmccd.cases.prepare import make_recipe
from mmccd.cases.subjects import read_list, split_from_lists, split_subjects, subject_of
from mmccd.slices import (
    SLICE_RANGE,
    areas,
    brats_offset,
    choose_slices,
    resize,
    resize_axes,
    resize_back,
    resize_labels,
    resize_matrix,
    slice_places,
)

SPLITS = Path(__file__).resolve().parents[4] / "shared" / "splits"
quick = settings(max_examples=30, deadline=None)


def sentence(f, *args, **kw):
    with pytest.raises(ValueError) as error:
        f(*args, **kw)
    text = str(error.value)
    assert text.endswith("."), text
    assert "\n" not in text, text
    return text


LPS = np.diag([-1.0, -1, 1, 1])


def pad_square(x, value=-1.0):  # evenly on both sides; an odd pixel goes to the end
    h, w = x.shape[-2:]
    y, z = max(w - h, 0), max(h - w, 0)
    return F.pad(x, (z // 2, z - z // 2, y // 2, y - y // 2), value=value)


def case(brain, lesion=None, affine=LPS):
    return Case("Ann", {"flair": brain.astype(np.float32)}, affine, brain, lesion, None)


# ------------------------------------------------------------------------------------------------- which slices
RECIPE = dict(
    size=64,
    slices=None,
    modalities=["flair"],
    tumour_free=False,
    min_brain=1.0,
    healthy=True,
    normalisation="tukey",
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *[({"size": v}, f"from 8 to 1024 pixels, got {v}") for v in (7, 1025, True, 64.5)],
        *[({"slices": v}, "a range such as range") for v in (range(9, 3), range(3, 9, 2), [3, 4])],
        *[({"min_brain": v}, "0 or more square centimetres") for v in (-1, float("nan"))],
        *[({"fov": v}, "20 to 1000 millimetres wide") for v in (19, 1001, float("nan"))],
        *[({"modalities": v}, "each once, got") for v in ([], ["pd"], ["t1", "t1"])],
    ],
)
def test_slices_that_no_store_can_hold(wrong, words):
    assert make_recipe(**RECIPE)["size"] == 64
    assert words in sentence(make_recipe, **RECIPE | wrong)


def test_choose_by_place_brain_and_lesion():
    brain = np.zeros((240, 240, 20), bool)
    brain[100:140, 100:150, 2:] = True  # 20 square centimetres
    brain[100:110, 100:110, 1] = True  # 1
    lesion = np.zeros_like(brain)
    lesion[120, 120, 10:] = True
    affine = np.diag([-1.0, -1, 1, 1])
    affine[1:3, 3] = 239, 70
    c = case(brain, lesion, affine)
    assert slice_places(brain.shape, affine).tolist() == list(range(70, 90))
    assert choose_slices(c) == list(range(2, 10))
    assert choose_slices(c, tumour_free=False) == list(range(2, 20))
    assert choose_slices(c, range(75, 200)) == [5, 6, 7, 8, 9]
    assert choose_slices(c, None, min_brain=0) == list(range(1, 10))
    assert choose_slices(c, min_brain=20) == list(range(2, 10))
    assert choose_slices(c, min_brain=20.1) == []
    assert "Ann has none of the slices 100 to 109: its own are 70 to 89" in sentence(choose_slices, c, range(100, 110))
    c.lesion = None
    assert "it has no segmentation" in sentence(choose_slices, c)
    assert choose_slices(c, tumour_free=False) == list(range(2, 20))


def test_an_origin_that_is_not_that_of_brats():
    for origin in ((120, 120, -77), (0, 239, -5), (0, 0, 0)):
        affine = np.diag([-1.0, -1, 1, 1])
        affine[:3, 3] = origin
        assert slice_places((240, 240, 155), affine).tolist() == list(range(155)), origin


def test_no_slice_asked_for():
    assert "No slice is requested" in sentence(choose_slices, case(np.ones((9, 9, 3), bool)), range(0, 0), False)


def test_padding_of_another_background():
    x = torch.full((1, 1, 10, 6), -3.0)
    assert (resize(x, 5, -3.0) == -3).all()
    assert (resize(x, 5) == -1).any()


def test_other_grids_use_indices_and_their_own_voxels():
    affine = np.diag([-2.0, -3, 1.5, 1])
    affine[2, 3] = -72
    brain = np.ones((50, 60, 4), bool)
    assert slice_places(brain.shape, affine).tolist() == [0, 1, 2, 3]
    assert np.allclose(areas(brain, affine), 50 * 60 * 6 / 100)
    turn = np.eye(4)
    turn[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    assert np.allclose(areas(brain, turn), 30)  # a tilted grid has the same area


# ------------------------------------------------------------------------------------------------- sizes
@quick
@given(n=st.integers(2, 200), size=st.integers(2, 200))
def test_matrix(n, size):
    w = resize_matrix(n, size)
    assert w.shape == (size, n)
    assert (w >= 0).all()
    torch.testing.assert_close(w.sum(1), torch.ones(size))
    if size <= n:
        torch.testing.assert_close(w.sum(0), torch.full((n,), size / n))  # every old pixel counts the same
    torch.testing.assert_close(w.flip(0, 1), w)  # no side is preferred


@quick
@given(h=st.integers(3, 60), w=st.integers(3, 60), size=st.integers(8, 90), seed=st.integers(0, 99))
def test_resize_and_back(h, w, size, seed):
    x = torch.randn(2, 3, h, w, generator=torch.Generator().manual_seed(seed))
    small = resize(x, size)
    assert small.shape == (2, 3, size, size)
    assert resize_back(small, (h, w)).shape == x.shape
    assert torch.equal(resize_back(pad_square(x), (h, w)), x)
    assert torch.equal(resize(x, max(h, w)), pad_square(x))
    background = torch.full((1, 1, h, w), -1.0)
    torch.testing.assert_close(resize(background, size), torch.full((1, 1, size, size), -1.0))
    torch.testing.assert_close(resize_back(resize(background, size), (h, w)), background)
    torch.testing.assert_close(resize(x.flip(-1), size).flip(-1), small, atol=1e-5, rtol=1e-4) if (
        h - w
    ) % 2 == 0 else None
    torch.testing.assert_close(resize(x[1:], size), small[1:], atol=1e-6, rtol=1e-5)  # alone as in a batch


@pytest.mark.parametrize(("n", "k"), [(64, 2), (96, 3), (60, 4)])
def test_against_torch(n, k):
    x = torch.randn(1, 2, n, n)
    torch.testing.assert_close(resize(x, n // k), F.interpolate(x, (n // k, n // k), mode="area"))
    torch.testing.assert_close(
        resize(x, n * k), F.interpolate(x, (n * k, n * k), mode="bilinear"), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        resize(x, n + 7), F.interpolate(x, (n + 7, n + 7), mode="bilinear"), atol=1e-4, rtol=1e-4
    )


def test_shrinking_is_a_mean_over_the_area():
    "Against brute force: each old pixel cut into 16 x 16 parts."
    x = torch.randn(1, 1, 15, 15)
    parts = x.repeat_interleave(16, 2).repeat_interleave(16, 3)  # 240
    torch.testing.assert_close(
        resize(x, 8), parts.unfold(2, 30, 30).unfold(3, 30, 30).mean((-1, -2)), atol=1e-5, rtol=1e-4
    )


# ------------------------------------------------------------------------------------------------- labels
def disc(side, radius, y, x):
    grid = np.arange(side) + 0.5
    return torch.from_numpy((grid[:, None] - y) ** 2 + (grid - x) ** 2 <= radius**2)[None, None]


@quick
@given(
    size=st.sampled_from([32, 64, 96, 128, 200, 240, 256, 320]),
    radius=st.floats(5, 15),
    dy=st.floats(-9, 9),
    dx=st.floats(-9, 9),
)
def test_a_disc_keeps_its_area(size, radius, dy, dx):
    m = disc(240, radius * 240 / size, 120 + dy, 120 + dx)
    if m[..., 0, :].any() or m[..., 0].any():
        return  # cut by the border
    got, wanted = int(resize_labels(m, size).sum()), float(m.sum()) * (size / 240) ** 2
    assert abs(got / wanted - 1) < 0.03
    share = resize_axes(m.float(), size, size)
    assert not (resize_labels(m, size) & (share == 0)).any()


@quick
@given(seed=st.integers(0, 999), h=st.integers(8, 50), w=st.integers(8, 50), size=st.integers(8, 60))
def test_any_mask_keeps_its_area_to_half_a_pixel(seed, h, w, size):
    m = torch.rand(3, 1, h, w, generator=torch.Generator().manual_seed(seed)) > torch.tensor([0.1, 0.5, 0.95]).view(
        3, 1, 1, 1
    )
    got, wanted = resize_labels(m, size).sum((1, 2, 3)), m.sum((1, 2, 3)) * (size / max(h, w)) ** 2
    assert got.dtype == torch.int64
    assert resize_labels(m, size).dtype == torch.bool
    reach = (resize_axes(pad_square(m.float(), 0.0), size, size) * 1e4 >= 0.5).sum(
        (1, 2, 3)
    )  # an enlarged dot reaches no further than linear growing spreads it
    assert ((got - torch.minimum(wanted, reach.double())).abs() <= 0.51).all()
    assert torch.equal(torch.cat([resize_labels(a[None], size) for a in m]), resize_labels(m, size))


def test_what_the_published_code_does():
    "240 to 128, radius 10: `> 0` adds about 23 %."
    m = torch.cat([disc(240, 10, 120 + dy, 120 + dx) for dy, dx in np.random.default_rng(0).uniform(-4, 4, (50, 2))])
    grown = (resize_axes(m.float(), 128, 128) > 0).sum((1, 2, 3)) / (m.sum((1, 2, 3)) * (128 / 240) ** 2)
    assert 1.21 < grown.mean() < 1.25


# ------------------------------------------------------------------------------------------------- splits
@quick
@given(n=st.integers(3, 60), seed=st.integers(0, 50), order=st.randoms())
def test_split(n, seed, order):
    ids = [f"p{i}" for i in range(n)] + ["p0_healthy_twin"]
    parts = split_subjects(ids, 0.2, 0.2, seed)
    shuffled = list(ids)
    order.shuffle(shuffled)
    assert split_subjects(shuffled + shuffled, 0.2, 0.2, seed) == parts
    assert sorted(list(chain.from_iterable(parts.values()))) == sorted(ids)
    assert all(parts.values())
    assert all(p == sorted(p) for p in parts.values())
    people = [{subject_of(i) for i in p} for p in parts.values()]
    assert len(set.union(*people)) == sum(map(len, people)) == n
    assert len(people[1]) == len(people[2]) == max(1, round(0.2 * n))


def test_small_sets():
    assert [len(p) for p in split_subjects("ab").values()] == [1, 1, 0]
    assert [len(p) for p in split_subjects("a", val=0).values()] == [1, 0, 0]
    assert [len(p) for p in split_subjects("abcde", 2, 1).values()] == [2, 2, 1]
    for bad in (("a",), ("",), ("ab", 1, 1), ("ab", 0.1, 0.1), ("abc", 1.5), ("abc", -0.1), ("abc", 7)):
        sentence(split_subjects, *bad)


@pytest.mark.parametrize(
    ("id", "subject"),
    [
        ("BraTS-GLI-00005-101", "BraTS-GLI-00005"),
        ("BraTS2021_00005", "BraTS2021_00005"),
        ("sub-01_ses-2_T1w", "sub-01"),
        ("sub-01_ses-2", "sub-01"),
        ("phantom1-glioma-s0-003_healthy_twin", "phantom1-glioma-s0-003"),
        ("phantom1-glioma-s0-003", "phantom1-glioma-s0-003"),
    ],
)
def test_subjects(id, subject):
    assert subject_of(id) == subject


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb\nc\n",
        b"a\nb\nc",
        b"a\r\nb\r\nc\r\n",
        b"\xef\xbb\xbfa\nb\nc\n",
        b"\n\na \n\n\tb\n# d\n#e\nc\n\n",
        b"a\rb\rc",
    ],
)
def test_lists(tmp_path, content):
    (tmp_path / "l.txt").write_bytes(content)
    assert read_list(tmp_path / "l.txt") == ["a", "b", "c"]


def test_lists_that_are_wrong(tmp_path):
    for name, content, words in [
        ("twice", b"a\nb\na\n", "a is in it twice"),
        ("none", b"# x\n\n", "no name"),
        ("utf16", "a\n".encode("utf-16"), "not plain text"),
        ("gz", b"\x1f\x8b\x08\xff", "not plain text"),
    ]:
        (tmp_path / name).write_bytes(content)
        text = sentence(read_list, tmp_path / name)
        assert words in text
        assert str(tmp_path / name) in text
    assert "no such file" in sentence(read_list, tmp_path / "gone")
    assert "no such file" in sentence(read_list, tmp_path)


def test_split_from_lists(tmp_path):
    for name, content in dict(train="a\nb\n", val="c\n", test="d\n", again="b\n", twin="a_healthy_twin\n").items():
        (tmp_path / name).write_text(content)

    def files(*names):
        return {n: tmp_path / n for n in names}

    assert split_from_lists("dcbaxyz", **files("train", "val", "test")) == {
        "train": ["a", "b"],
        "val": ["c"],
        "test": ["d"],
    }
    assert "b is in the list for train and in that for again" in sentence(
        split_from_lists, "abcd", **files("train", "again")
    )
    assert "a is in the list for train and in that for twin" in sentence(
        split_from_lists, ["a", "b", "a_healthy_twin"], **files("train", "twin")
    )
    assert "1 name in the lists has no case, such as b" in sentence(split_from_lists, "acd", **files("train", "val"))
    assert "2 names in the lists have no case" in sentence(split_from_lists, "ad", **files("train", "val"))
    assert split_from_lists("ad", partial=True, **files("train", "val")) == {"train": ["a"], "val": []}


@pytest.mark.skipif(not SPLITS.is_dir(), reason="the lists of the published experiment are not here")
def test_the_published_lists():
    parts = {n: read_list(SPLITS / f"mmccd_{n}.txt") for n in ("train", "test", "unused")}
    assert {n: len(p) for n, p in parts.items()} == {"train": 974, "test": 139, "unused": 138}
    whole = split_from_lists(
        list(chain.from_iterable(parts.values())),
        train=SPLITS / "mmccd_train.txt",
        val=SPLITS / "mmccd_unused.txt",
        test=SPLITS / "mmccd_test.txt",
    )
    assert sum(map(len, whole.values())) == 1251


def test_a_case_from_files(tmp_path):
    c = Case.load(write_case(tmp_path, "a"))
    assert choose_slices(c, None, False, 0) == list(range(10))
    assert set(choose_slices(c, None, True, 0)) == set(range(10)) - set(np.flatnonzero(c.lesion.any((0, 1))))


# ---- one rule for the BraTS grid


@pytest.mark.parametrize(
    ("shape", "origin", "offset"),
    [
        ((240, 240, 155), (0, 239, 0), 0),
        ((240, 240, 155), (119.3, 119.3, -77), 0),  # moved by the header alone
        ((240, 240, 155), (119.3, 119.3, 40), 0),
        ((240, 240, 155), (0, 239, -300), 0),
        ((240, 240, 152), (0, 239, 3), 3),  # cut: the origin says where it lies
        ((240, 240, 20), (0, 239, 70), 70),
        ((240, 240, 20), (0, 239, 140), None),  # it would end above the grid
        ((240, 240, 152), (119.3, 119.3, 3), None),
        ((182, 218, 182), (0, 239, 0), None),
    ],
)
def test_prepare_and_evaluate_take_the_same_slices(shape, origin, offset):
    "What a detector learns from and what it is scored on are one choice."
    affine = LPS.copy()
    affine[:3, 3] = origin
    assert brats_offset(shape, affine) == offset
    scored, places = protocol_slices(shape, affine), slice_places(shape, affine)
    if offset is None:
        assert scored == range(shape[2])
        assert places.tolist() == list(range(shape[2]))
    else:
        assert places[list(scored)].tolist() == [p for p in places if p in SLICE_RANGE]


@pytest.mark.parametrize(("n", "step", "first", "offset"), [(19, 8, 3, 3), (3, 77, 0, 0), (19, 8, 11, None)])
def test_every_nth_slice_of_the_brats_grid(n, step, first, offset):
    affine = LPS @ np.diag([1.0, 1, step, 1])
    affine[:3, 3] = 0, 239, first
    assert brats_offset((240, 240, n), affine) == offset
    scored, places = protocol_slices((240, 240, n), affine), slice_places((240, 240, n), affine)
    assert places.tolist() == (list(range(n)) if offset is None else [first + step * k for k in range(n)])
    middle = [k for k, p in enumerate(places) if p in SLICE_RANGE] if offset is not None else []
    assert list(scored) == (middle or list(range(n)))


def test_voxels_of_another_size_are_no_brats_grid():
    assert brats_offset((240, 240, 155), np.diag([-1.0, -1, 1.2, 1])) is None
    assert brats_offset((240, 240, 155), np.diag([1.0, -1, 1, 1])) is None
