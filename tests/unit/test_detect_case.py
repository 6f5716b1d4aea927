"""A whole case in, a map and a segmentation on its own grid out."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
import torch
from toy_cases import AFFINE, volumes
from toy_detection import Noisy, ready

from mmccd.cases.case import Case
from mmccd.detection.detect import detect_case
from mmccd.detection.maps import anomaly_volume
from mmccd.detection.report import report_title
from mmccd.detector import Detector, Threshold, ThresholdConfig
from mmccd.postprocess import PostProcess

pytestmark = pytest.mark.usefixtures("quick_reports")


def test_map_and_segmentation(case):
    found = detect_case(case, ready())
    assert found.anomaly.dtype == np.float32
    assert found.anomaly.shape == case.brain.shape
    assert (found.anomaly >= 0).all()
    assert not found.anomaly[~case.brain].any()
    assert np.array_equal(found.segmentation, found.anomaly > 2)
    overlap = 2 * (found.segmentation & case.lesion).sum() / (found.segmentation.sum() + case.lesion.sum())
    assert overlap > 0.9  # the toy lesion is that easy
    assert found.volume_ml == pytest.approx(found.segmentation.sum() * 2 / 1000)


@pytest.mark.parametrize("size", [1, 3, 99])
def test_batch_size_does_not_matter_even_with_noise(case, size):
    kept = anomaly_volume(case, Noisy(), "flair", seed=3)
    np.testing.assert_allclose(
        anomaly_volume(case, Noisy(), "flair", seed=3, batch_size=size), kept, rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(anomaly_volume(case, Noisy(), "flair", seed=4), kept)


@dataclass(frozen=True)
class SizedConfig(ThresholdConfig):
    size: int = 14
    fov: float = 28.0


class Sized(Threshold):
    "A threshold that looks at pictures of `size` pixels."

    Config, seen = SizedConfig, set()

    def score(self, x, brain, generator=None):
        self.seen.add(tuple(x.shape[2:]))
        assert x.shape == brain.shape
        assert brain.dtype == torch.bool
        return super().score(x, brain)


@pytest.mark.parametrize("size", [14, 28, 40])
def test_a_detector_sees_the_size_it_was_trained_at(case, size):
    Sized.seen.clear()
    a, plain = anomaly_volume(case, Sized(size=size), "flair"), anomaly_volume(case, Threshold(), "flair")
    assert Sized.seen == {(size, size)}
    assert a.shape == plain.shape
    assert a.dtype == np.float32
    assert (a >= 0).all()
    assert not a[~case.brain].any()
    if size == 28:
        np.testing.assert_allclose(a, plain, atol=1e-5)  # a pixel of a millimetre: padding comes and goes
    else:
        assert not np.allclose(a, plain, atol=1e-2)
        assert a[case.lesion].mean() > 3 * a[case.brain & ~case.lesion].mean()


def test_a_detector_gets_slices_in_its_own_normalisation(case):
    maps = {
        m: anomaly_volume(case, Threshold(normalisation=m), "flair") for m in ("tukey", "median_iqr", "percentiles")
    }
    for m, a in maps.items():
        expected = torch.nn.functional.softplus(3 * case.slices("flair", method=m)).numpy()[:, 0].transpose(2, 1, 0)
        np.testing.assert_allclose(a[case.brain], expected[case.brain], rtol=1e-5)
    assert not np.allclose(maps["tukey"], maps["percentiles"], atol=0.1)
    with pytest.raises(ValueError, match="'minmax'"):
        Threshold(normalisation="minmax")


def test_only_slices_with_brain_go_in_and_never_too_many(case):
    seen = []

    class Counts(Threshold):
        def score(self, x, brain, generator=None):
            seen.append(len(x))
            assert brain.flatten(1).any(1).all()
            return super().score(x, brain)

    case.brain[:, :, :3] = False
    anomaly_volume(case, Counts(), "flair", batch_size=2)
    assert max(seen) == 2
    assert sum(seen) == case.brain.any((0, 1)).sum()


def orientations():
    "Six of the 48 ways to store the same brain, as functions of an image."
    turns = [
        [[0, 1], [1, 1], [2, 1]],
        [[0, -1], [1, 1], [2, 1]],
        [[2, 1], [0, -1], [1, 1]],
        [[1, -1], [2, -1], [0, -1]],
        [[1, 1], [0, 1], [2, -1]],
        [[0, 1], [2, -1], [1, 1]],
    ]
    return [lambda im, t=t: im.as_reoriented(np.array(t)) for t in turns]


@pytest.mark.parametrize("turn", orientations())
def test_any_orientation_gives_the_same_answer_on_its_own_grid(tmp_path, turn):
    image = nib.Nifti1Image(volumes()[0], AFFINE)
    maps = []
    for name, im in (("straight", image), ("turned", turn(image))):
        nib.save(im, tmp_path / f"{name}_flair.nii.gz")
        files = detect_case(Case.from_files({"flair": tmp_path / f"{name}_flair.nii.gz"}), ready()).save(tmp_path)
        for kind, dtype in (("anomaly", np.float32), ("segmentation", np.uint8)):
            written = nib.load(tmp_path / files[kind])
            assert written.shape == im.shape
            assert np.allclose(written.affine, im.affine)
            assert written.get_data_dtype() == dtype
        maps.append(nib.as_closest_canonical(nib.load(tmp_path / files["anomaly"])).get_fdata())
    assert np.array_equal(*maps)
    assert maps[0].any()


def test_uncalibrated(case):
    with pytest.raises(ValueError, match="no threshold yet"):
        detect_case(case, Threshold())


def test_wrong_modality(case):
    with pytest.raises(ValueError, match="no t2"):
        detect_case(case, ready(), "t2")


def test_everything_on_the_detectors_device(case):
    assert Detector.from_pretrained("threshold-flair").device == torch.device("cpu")
    assert torch.is_tensor(ready().to("meta")._here)
    assert ready().to("meta").device.type == "meta"


POSTS = [PostProcess(median=3), PostProcess(erode=2), PostProcess(smallest=0.05), PostProcess(3, 1, 0.02)]


@pytest.mark.parametrize("post", POSTS)
def test_post_processing(case, tmp_path, post):
    plain_one, found = detect_case(case, ready()), detect_case(case, ready(), post=post)
    spacing = (1, 1, 2)  # of the toy's affine
    expected = post.map(plain_one.anomaly, case.brain, spacing)
    assert np.array_equal(found.segmentation, post.segment(expected, 2, spacing))
    assert np.array_equal(found.segmentation, found.anomaly > 2)  # in memory
    assert found.anomaly.dtype == np.float32
    assert (found.anomaly <= expected).all()
    assert found.post == post
    assert not np.array_equal(found.anomaly, plain_one.anomaly)
    assert found.volume_ml < plain_one.volume_ml
    files = found.save(tmp_path)
    a, s = (np.asarray(nib.load(tmp_path / files[k]).dataobj) for k in ("anomaly", "segmentation"))
    assert np.array_equal(a > 2, s > 0)
    assert s.any()
    assert str(post) in report_title(found)
    assert "map after" not in report_title(plain_one)


def test_post_processing_off_changes_nothing(case):
    a, b = detect_case(case, ready()), detect_case(case, ready(), post=PostProcess())
    assert np.array_equal(a.anomaly, b.anomaly)
    assert np.array_equal(a.segmentation, b.segmentation)
    assert a.post == b.post == PostProcess()
