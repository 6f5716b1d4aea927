"""Where the brain is when the background is not 0, whether it can be a brain, and what a modality does not show."""

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mmccd.cases.brain import background_value, brain_mask, check_brain, check_lesion, check_values, unmeasured
from mmccd.cases.case import Case
from mmccd.cases.prepare import normalised_slices

SHAPE = (40, 48, 24)
MM4 = np.diag([-4.0, -4, 4, 1])  # in which the box is 160 x 192 x 96 mm


def head(shape=SHAPE, seed=0):
    "A brain of 980 ml with texture and a dark ventricle, in a background of 0."
    x, y, z = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    inside = (x / 0.8) ** 2 + (y / 0.85) ** 2 + (z / 0.95) ** 2 < 1
    ventricle = (x / 0.15) ** 2 + (y / 0.3) ** 2 + (z / 0.3) ** 2 < 1
    values = np.random.default_rng(seed).uniform(200, 400, shape).round()
    return np.where(inside & ~ventricle, values, 0).astype(np.float32)


BRAIN = brain_mask({"flair": head()})


def padded(a, n=3, value=0):
    return np.pad(a, n, constant_values=value)


# ---- background --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [-1, -1024, -0.37, 5, 1000, -32768])
@pytest.mark.parametrize("padding", [0, 3])
def test_the_lowest_value_around_the_brain_is_background_with_and_without_padding(background, padding):
    v = np.where(BRAIN, head() + max(background, 0), background).astype(np.float32)
    v = padded(v, padding)
    assert background_value(v) == np.float32(background)
    assert_array_equal(brain_mask({"flair": v}), padded(BRAIN, padding))
    assert check_values(v, padded(BRAIN, padding)) == [
        f"its background is {background:g}, not 0; that was taken for outside the brain"
    ]


def test_a_slab_and_a_tight_crop_have_their_background_too():
    v = np.where(BRAIN, head(), -1024).astype(np.float32)
    assert_array_equal(brain_mask({"t1": v[:, :, 10:14]}), BRAIN[:, :, 10:14])
    i, j, k = (slice(i.min(), i.max() + 1) for i in np.nonzero(BRAIN))
    assert_array_equal(brain_mask({"t1": v[i, j, k]}), BRAIN[i, j, k])


def standardised(v):
    return np.where(v != 0, (v - 300) / 60, 0).astype(np.float32)


@pytest.mark.parametrize(
    "v",
    [
        head(),
        (head() / 100).round(),  # few grey levels
        np.where(BRAIN, 100, 0).astype(np.float32),  # one
        np.where(BRAIN, 100 + (head() > 390), 0).astype(np.float32)[:, :, 8:14],  # hardly more, in a slab
        standardised(head()).clip(-0.5),  # much of the brain at its minimum
        -head(),
    ],
)
def test_what_is_common_inside_a_brain_is_no_background(v):
    assert background_value(v) == 0
    assert (brain_mask({"t2": v}) == (BRAIN if v.shape == SHAPE else BRAIN[:, :, 8:14])).mean() > 0.999


def test_a_background_that_is_not_one_value_is_refused():
    noise = np.random.default_rng(2).uniform(1, 30, SHAPE).astype(np.float32)
    with pytest.raises(ValueError, match=r"brain of p: its background is not 0; remove the skull first"):
        brain_mask({"flair": np.where(BRAIN, head(), noise)}, "p")
    with pytest.raises(ValueError, match="its background is not 0 in t2; remove the skull"):
        brain_mask({"flair": head(), "t2": np.where(BRAIN, head(), noise)}, "p")


# ---- plausibility ------------------------------------------------------------------------------------------------


def test_a_brain_and_any_part_of_one_are_plausible():
    assert check_brain(BRAIN, MM4) == []
    [note] = check_brain(BRAIN, np.diag([1.0, 1, 1, 1]))  # nothing is cut off: a small box is no excuse
    assert "less than a head has" in note
    assert check_brain(BRAIN[:, :, 8:12], np.diag([1.0, 1, 1, 1])) == []
    for part in (np.s_[:, :, 8:12], np.s_[:20], np.s_[:, 10:30], np.s_[10:20, 10:20, 8:12]):
        assert [n for n in check_brain(BRAIN[part], MM4) if "fills" not in n] == []
    assert check_brain(np.zeros(SHAPE, bool), MM4) == []


def test_more_than_a_brain_is_refused():
    with pytest.raises(ValueError, match=r"brain of p: .* has 7\d\d\d ml, more than any brain; remove the skull"):
        check_brain(BRAIN, np.diag([8.0, 8, 8, 1]), "p")


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (padded(np.ones((20, 20, 20), bool), 10), "fills 100% of its box; is the background one value?"),
        (padded(np.ones((4, 4, 4), bool), 18), "only 4.1 ml were taken for brain"),
        (np.pad(np.ones((40, 44, 4), bool), 2), "up to 282 square centimetres of a slice"),
    ],
)
def test_what_no_brain_does_is_noted(mask, words):
    assert any(words in note for note in check_brain(mask, MM4))


def test_lesions_that_none_can_be_are_noted():
    half, moved = BRAIN.copy(), np.roll(BRAIN, 20, 0)
    half[: SHAPE[0] // 2] = False
    for plausible in (None, BRAIN & False, half, np.roll(half, -2, 0)):
        assert check_lesion(plausible, BRAIN) == []
    assert check_lesion(BRAIN, BRAIN) == ["its lesion fills 100% of the brain; is it one?"]
    assert "of its lesion lies outside the brain; check" in check_lesion(moved, BRAIN)[0]


# ---- values ------------------------------------------------------------------------------------------------------


def wrapped(bits):
    "A bright lesion of which unsigned numbers became signed ones."
    v = head()
    lesion = np.zeros(SHAPE, bool)
    lesion[10:18, 20:28, 8:16] = True
    v = np.where(lesion & BRAIN, 410 + v / 4, v) * (2.0 ** (bits - 1) / 401)
    return np.where(v >= 2.0 ** (bits - 1), v - 2.0**bits, v).round().astype(np.float32), lesion & BRAIN


@pytest.mark.parametrize("bits", [8, 16])
def test_numbers_that_ran_over_are_noted_and_stay_in_the_brain(bits):
    v, lesion = wrapped(bits)
    assert (v[lesion] < 0).all()
    mask = brain_mask({"flair": v})
    assert mask[lesion].all()
    [note] = check_values(v, mask)
    assert f"of its brain is negative, as where values above {2 ** (bits - 1) - 1} were saved as int{bits}" in note
    assert check_values(abs(v), mask) == []


@pytest.mark.parametrize("bits", [8, 16])
def test_numbers_of_most_of_the_brain_that_ran_over_are_noted(bits):
    v = head() * (1.15 * 2.0 ** (bits - 1) / np.median(head()[BRAIN]))
    v = np.where(v >= 2.0 ** (bits - 1), v - 2.0**bits, v).round().astype(np.float32)
    assert (v[BRAIN] < 0).mean() > 0.4
    assert f"were saved as int{bits}" in "".join(check_values(v, BRAIN))


def test_negative_values_as_such_are_no_fault_unless_all_are():
    assert check_values(standardised(head()), BRAIN) == []
    assert check_values((standardised(head()) * 10000).round(), BRAIN) == []
    assert check_values(-head(), BRAIN)[0].endswith("of its brain is negative; is the sign of its values wrong?")


# ---- what was not measured ---------------------------------------------------------------------------------------


def cut(part, background=0):
    v = np.where(BRAIN, head(seed=1) + 1, background).astype(np.float32)
    v[part] = 0
    return v


@pytest.mark.parametrize("part", [np.s_[:, :, :7], np.s_[:, :20], np.s_[30:], np.s_[:, :, 11:13]])
@pytest.mark.parametrize("background", [0, -1024])
def test_a_slab_that_was_not_measured_is_found(part, background):
    expected = np.zeros(SHAPE, bool)
    expected[part] = True
    assert_array_equal(unmeasured(cut(part, background), BRAIN, MM4), expected & BRAIN)


def test_a_block_of_zeros_inside_is_found_where_it_is_no_ventricle():
    block = np.zeros(SHAPE, bool)
    block[12:26, 14:30, 8:16] = True
    found = unmeasured(cut(block), BRAIN, MM4)
    assert_array_equal(found, block & BRAIN)


@pytest.mark.parametrize("affine", [np.diag([1.0, 1, 1, 1]), np.diag([-1.0, -1, 5, 1])])
def test_ventricles_and_rims_are_no_unmeasured_regions(affine):
    assert unmeasured(head(), BRAIN, affine) is None
    rim = BRAIN & ~np.roll(BRAIN, 1, 0)
    assert unmeasured(np.where(rim, 0, head()), BRAIN, affine) is None
    assert unmeasured(head(), np.zeros(SHAPE, bool), affine) is None


def write(folder, **volumes):
    for m, v in volumes.items():
        nib.save(nib.Nifti1Image(v, MM4), folder / f"p_{m}.nii")
    return Case.load(folder)


@pytest.mark.parametrize("method", ["tukey", "median_iqr", "percentiles"])
def test_statistics_are_those_of_what_was_measured(tmp_path, method):
    whole, part = head(seed=1) + 1, np.s_[:, :, :10]
    case = write(tmp_path, flair=head(), t2=cut(part))
    assert case.notes == ["t2: 36% of the brain is 0, as where it was not measured; that is left out"]
    x = case.normalised("t2", method)
    seen = case.measured("t2")
    expected = Case("q", {"t2": whole}, MM4, seen, None, case.grid).normalised("t2", method)
    assert_array_equal(x[seen], expected[seen])
    assert (x[~seen] == -1).all()
    assert_array_equal(normalised_slices(case, "t2", [4, 12], method)[:, 0], case.slices("t2", [4, 12], method)[:, 0])
    assert case.measured("flair") is case.brain


def test_a_good_case_has_no_notes(tmp_path):
    case = write(tmp_path, flair=head(), t2=head(seed=1))
    assert case.notes == []
    assert case.unmeasured == {}


def test_errors_name_the_case(tmp_path):
    (tmp_path / "p").mkdir()
    case = write(tmp_path / "p", flair=head())
    with pytest.raises(ValueError, match=r"^p: There is no axial slice 70 in a volume of 24 slices"):
        case.slices("flair", [70])
    case.volumes["flair"][case.brain] = 5
    with pytest.raises(ValueError, match=r"flair of p: at least half of its brain has the value 5"):
        case.normalised("flair")


def test_published_normalisation_does_not_depend_on_the_background(tmp_path):
    for background in (0, -1024):
        (tmp_path / str(background)).mkdir()
    a = write(tmp_path / "0", flair=np.where(BRAIN, head() + 1024, 0).astype(np.float32))
    b = write(tmp_path / "-1024", flair=np.where(BRAIN, head(), -1024).astype(np.float32))
    assert_array_equal(a.normalised("flair", "published"), b.normalised("flair", "published"))
