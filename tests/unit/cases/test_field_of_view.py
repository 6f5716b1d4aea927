"""What a network is shown does not depend on the box, the header's origin or the voxels of a file."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmccd.baselines import DAE
from mmccd.cases.case import Case
from mmccd.cases.grid import Grid
from mmccd.cases.prepare import case_arrays, make_recipe
from mmccd.detection.maps import anomaly_volume
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
from mmccd.scoring import average_precision
from mmccd.slices import Region, cut, field_of_view, resize, resize_back, resize_labels, to_slices

quick = settings(max_examples=20, deadline=None)
SMALL = {"channels": 8, "mults": (1, 2), "blocks": 1, "attention": ()}


def head(shape=(48, 56, 3), centre=(0.45, 0.55)):
    """A smooth head with a spot, its brain and the spot, (x, y, z)."""
    x, y, _ = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    u, v = (x - centre[0] * shape[0]) / shape[0], (y - centre[1] * shape[1]) / shape[1]
    brain = (u / 0.33) ** 2 + (v / 0.36) ** 2 < 1
    spot = (u - 0.1) ** 2 + (v + 0.05) ** 2 < 0.06**2
    return np.where(brain, 500 + 150 * np.sin(9 * u) * np.cos(7 * v) + 400 * spot, 0).astype(np.float32), brain, spot


def make_case(volume, brain, lesion, sides=(4.0, 4.0, 5.0), origin=(0, 0, 0)):
    affine = np.diag([-sides[0], -sides[1], sides[2], 1.0])
    affine[:3, 3] = origin
    return Case("Ann", {"flair": volume}, affine, brain, lesion, Grid(volume.shape, affine))


def detector(size=32):
    torch.manual_seed(0)
    return DAE(input="flair", size=size, unet=SMALL).eval()


def fpr(a, case, h):
    return (a[case.brain & ~case.lesion] > h).mean()


@quick
@given(
    pads=st.tuples(*[st.integers(0, 15)] * 4),
    crop=st.booleans(),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
)
def test_crop_padding_and_origin_change_nothing(pads, crop, origin):
    volume, brain, spot = head()
    kept = anomaly_volume(make_case(volume, brain, spot), detector(), "flair")
    box = (slice(None),) * 3
    if crop:
        x, y = (np.flatnonzero(brain.any(axis)) for axis in ((1, 2), (0, 2)))
        box = slice(x[0], x[-1] + 1), slice(y[0], y[-1] + 1), slice(None)
    sides = (pads[:2], pads[2:], (0, 0))
    moved = [np.pad(v[box], sides) for v in (volume, brain, spot)]
    got = anomaly_volume(make_case(*moved, origin=origin), detector(), "flair")
    assert np.abs(got).max() > 0.01
    np.testing.assert_allclose(got[moved[1]], kept[brain], atol=1e-4)


@pytest.mark.parametrize("k", [2, 3])
def test_finer_voxels_give_the_same_map(k):
    volume, brain, spot = head()
    kept = anomaly_volume(make_case(volume, brain, spot), detector(), "flair")
    finer = [v.repeat(k, 0).repeat(k, 1) for v in (volume, brain, spot)]
    case = make_case(*finer, sides=(4 / k, 4 / k, 5))
    got = anomaly_volume(case, detector(), "flair").reshape(48, k, 56, k, 3).mean((1, 3))
    assert np.abs(got - kept)[brain].mean() < 0.05 * kept[brain].mean()  # linear between the network's pixels


def test_voxels_twice_as_long_from_front_to_back_give_nearly_the_same_map():
    volume, brain, spot = head()
    kept = anomaly_volume(make_case(volume, brain, spot, (2.0, 2.0, 5.0)), detector(), "flair")

    def half(v):
        return v.reshape(48, 28, 2, 3).mean(2)

    longer = make_case(half(volume), half(brain) >= 0.5, half(spot) >= 0.5, (2.0, 4.0, 5.0))
    got = anomaly_volume(longer, detector(), "flair")
    inside = longer.brain & (half(brain) == 1)
    assert np.corrcoef(got[inside], half(kept)[inside])[0, 1] > 0.97


def test_a_store_holds_the_same_slices_whatever_the_box():
    volume, brain, spot = head()
    recipe = make_recipe(32, None, ["flair"], False, 1.0, False, "tukey")
    images, masks, rows = case_arrays(make_case(volume, brain, spot), recipe)
    moved = [np.pad(v, ((9, 0), (2, 21), (0, 0))) for v in (volume, brain, spot)]
    other_images, other_masks, other_rows = case_arrays(make_case(*moved, origin=(50, -7, 3)), recipe)
    assert np.abs(images.astype(float) - other_images).max() < 2e-3
    assert (masks == other_masks).all()
    assert rows == other_rows


@quick
@given(
    size=st.sampled_from([16, 31, 64]),
    top=st.floats(-20, 10),
    left=st.floats(-20, 10),
    height=st.floats(40, 90),
    width=st.floats(40, 90),
)
def test_nothing_moves_on_the_way_there_and_back(size, top, left, height, width):
    y, x = torch.arange(50)[:, None] + 0.5, torch.arange(44) + 0.5
    spot = torch.exp(-((y - 27) ** 2 + (x - 24) ** 2) / (2 * 5.0**2))[None, None]
    region = Region(top, left, height, width)
    back = resize_back(resize(spot, size, 0.0, region), (50, 44), region)

    def centre(a):
        return torch.stack([(a * y).sum(), (a * x).sum()]) / a.sum()

    inside = top < 10 and left < 7 and top + height > 44 and left + width > 41  # the whole spot
    if inside:
        torch.testing.assert_close(centre(back[0, 0]), centre(spot[0, 0]), atol=0.25, rtol=0)
        assert (back - spot).abs().max() < 0.35


def test_a_region_is_filled_with_background_and_a_whole_pixel_move_is_exact():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    got = cut(x, Region(-1, -2, 5, 7), (5, 7), -9.0)
    assert torch.equal(got[..., 1:4, 2:6], x)
    assert (got[..., 0, :] == -9).all()
    assert (got[..., :2] == -9).all()
    assert (got[..., 6] == -9).all()
    assert torch.equal(cut(x, Region(1, 1, 2, 2), (2, 2), 0.0), x[..., 1:3, 1:3])


@quick
@given(sides=st.tuples(*[st.floats(0.5, 5)] * 2), size=st.sampled_from([32, 64]))
def test_a_lesion_keeps_its_area_in_square_millimetres(sides, size):
    x, y = (np.arange(int(200 / s)) * s + s / 2 for s in sides)
    disc = ((x[:, None] - 90) ** 2 + (y - 110) ** 2 < 35**2)[..., None]
    brain = ((x[:, None] - 100) ** 2 + (y - 100) ** 2 < 80**2)[..., None]
    affine = np.diag([*sides, 5.0, 1.0])
    small = resize_labels(to_slices(disc), size, field_of_view(brain, affine))
    assert int(small.sum()) * (240 / size) ** 2 == pytest.approx(disc.sum() * np.prod(sides), abs=(240 / size) ** 2)


def test_the_brats_grid_is_taken_as_it_is_and_a_brain_elsewhere_in_the_middle():
    affine = np.diag([-1.0, -1, 1, 1])
    brain = np.zeros((240, 240, 155), bool)
    brain[60:180, 30:200] = True
    assert field_of_view(brain, affine) == Region(0, 0, 240, 240)
    assert field_of_view(brain[50:200, 20:220], affine) == Region(-25, -50, 240, 240)
    assert field_of_view(brain[:, :, :99], affine, 200.0) == Region(15, 20, 200, 200)


@pytest.mark.parametrize(
    ("sides", "words"),
    [((1.0, 7.0, 1.0), "1 x 7 mm"), ((9.0, 1.0, 1.0), "9 x 1 mm"), ((5.0, 5.9, 1.0), "does not fit into the 240 mm")],
)
def test_what_no_network_has_seen_is_refused_in_one_sentence(sides, words):
    volume, brain, spot = head((64, 72, 2))
    with pytest.raises(ValueError, match="Ann") as error:
        anomaly_volume(make_case(volume, brain, spot, sides), detector(), "flair")
    assert words in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_detectors_without_a_size_take_any_slices():
    from mmccd.detector import Threshold

    volume, brain, spot = head()
    assert anomaly_volume(make_case(volume, brain, spot, (9.0, 9.0, 9.0)), Threshold(), "flair")[spot].all()


def test_coarse_pixels_are_noted_once():
    volume, brain, spot = head()
    case = make_case(volume, brain, spot, (4.0, 4.0, 5.0))
    anomaly_volume(case, detector(60), "flair")
    assert case.notes == []
    for _ in range(2):
        anomaly_volume(case, detector(64), "flair")
    assert [("4 x 4 mm" in n and "3.75 mm" in n) for n in case.notes] == [True]


@pytest.mark.parametrize("name", ["dae-flair", "cycle-flair-t2"])
def test_packaged_detectors_find_as_much_in_a_cropped_scan_and_one_of_half_the_resolution(name):
    d, h = load_detector(name), make_phantom("glioma", 77, 0, range(80, 82), twin=False)
    whole = Case.from_phantom(h, modalities=["flair"])
    volume, brain, lesion = whole.volumes["flair"], whole.brain, whole.lesion
    box = np.s_[30:210, 25:230]
    blocks = volume.reshape(120, 2, 120, 2, 2).mean((1, 3)), *(v[::2, ::2] for v in (brain, lesion))
    cases = [
        whole,
        make_case(volume[box], brain[box], lesion[box], (1.0, 1.0, 1.0)),
        make_case(*blocks, (2.0, 2.0, 1.0)),
    ]
    scores = [average_precision(anomaly_volume(c, d, "flair")[c.brain], c.lesion[c.brain]) for c in cases]
    assert scores[0] > 0.3
    assert max(scores) - min(scores) < 0.05, scores
