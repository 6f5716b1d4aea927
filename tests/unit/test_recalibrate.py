"""Thresholds from healthy cases of the user, and thresholds used on other maps."""

import json
from dataclasses import replace

import pytest
from toy_cases import write_case
from toy_detection import ready

from mmccd.cases.case import Case
from mmccd.detection.calibration import recalibrate, stored_postprocessing, threshold_note
from mmccd.detection.detect import detect_case
from mmccd.detector import Threshold
from mmccd.postprocess import PostProcess

POSTS = [PostProcess(median=3), PostProcess(erode=2), PostProcess(3, 1, 0.02)]


def test_recalibrate(cases, tmp_path):
    healthy = [write_case(tmp_path / "well", f"h{i}", seed=10 + i, lesion=False) for i in range(2)]
    for post in (PostProcess(), *POSTS):
        detector = recalibrate(Threshold(), tmp_path / "well", post=post, fpr=0.05)
        maps = [detect_case(Case.load(p), detector, post=replace(post, smallest=0.0)) for p in healthy]
        brain = sum(m.case.brain.sum() for m in maps)
        rate = sum(m.segmentation.sum() for m in maps) / brain
        reached = sum((m.anomaly >= detector.threshold).sum() for m in maps) / brain
        assert rate <= 0.05 < reached
        assert detector.calibration["fpr_reached"] == pytest.approx(rate)
        assert detector.calibration["cases"] == ["h0", "h1"]
        assert stored_postprocessing(detector.calibration) == post
        assert json.dumps(detector.calibration)
        assert threshold_note(detector, post) == ""
        assert threshold_note(detector, replace(post, smallest=9.0)) == ""
    assert (
        recalibrate(Threshold(), healthy, fpr=0.05).threshold
        > recalibrate(Threshold(), healthy, post=POSTS[0], fpr=0.05).threshold
    )
    with pytest.raises(ValueError, match="Cannot calibrate on c0: it has a lesion"):
        recalibrate(Threshold(), cases)
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        recalibrate(Threshold(), healthy, fpr=2)


def test_recalibrate_without_cases():
    with pytest.raises(ValueError, match="Cannot calibrate without a healthy case, and none was given; name folders"):
        recalibrate(Threshold(), [])


def test_a_threshold_for_other_maps_is_noticed():
    note = threshold_note(ready(), PostProcess(5, 2, 1))
    assert (
        "no post-processing and is used on maps with post-processing (median of 5 voxels, without 2 mm of rim)" in note
    )
    assert "\n" not in note
    detector = ready()
    detector.calibration["post"] = {"median": 5, "erode": 0.0, "smallest": 0.0}
    assert "with post-processing (median of 5 voxels) and is used on maps with no post-processing" in threshold_note(
        detector, PostProcess()
    )
    assert not threshold_note(ready(), PostProcess())
    assert not threshold_note(ready(), PostProcess(smallest=1))
    assert not threshold_note(Threshold(), PostProcess(3))
    assert (
        stored_postprocessing(None)
        == stored_postprocessing({})
        == stored_postprocessing({"post": 3})
        == stored_postprocessing({"post": {"median": 4}})
        == PostProcess()
    )
