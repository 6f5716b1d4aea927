"""The picture of a case, its slices and its scales, and saving all or nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_detection import ready

from mmccd.detection.detect import detect_case
from mmccd.detection.report import representative_slices
from mmccd.detector import EverythingPositive


def test_report(case, tmp_path):
    found = detect_case(case, ready())
    found.save(tmp_path)
    with Image.open(tmp_path / "a/a_report.png") as im:
        assert im.width > 800
        assert im.height > 300
    fig = found.report()
    title = fig.get_suptitle()
    for words in ("a:", "Threshold on flair", "threshold 2", "ml", "not a medical device"):
        assert words in title
    scales = {
        (round(im.norm.vmin, 3), round(im.norm.vmax, 3))
        for ax in fig.axes
        for im in ax.images
        if im.get_cmap().name == "inferno"
    }
    assert scales == {(0, 4)}  # twice the threshold, whatever the map holds
    other = detect_case(case, ready())
    other.anomaly *= 10
    assert {im.norm.vmax for ax in other.report().axes for im in ax.images if im.get_cmap().name == "inferno"} == {4}


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f.case, "lesion", None),
        lambda f: f.segmentation.fill(False),
        lambda f: (f.anomaly.fill(0), f.segmentation.fill(False)),
        lambda f: setattr(f, "threshold", 0.0),
    ],
)
def test_report_of_odd_results(case, change):
    found = detect_case(case, ready())
    change(found)
    assert found.report().axes


def test_report_shows_what_was_missed(case):
    "Nothing is found, so the slices are those of the lesion; the scale is never the case's own."
    lesion = case.lesion.any((0, 1)).nonzero()[0]
    case.lesion[:, :, lesion[1:]] = False  # one slice is left
    found = detect_case(case, ready(threshold=50.0))
    fig = found.report()
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == [f"slice {lesion[0]}"]
    for h, top in ((50.0, 100), (0.0, 1)):
        found.threshold = h
        assert {im.norm.vmax for ax in found.report().axes for im in ax.images if im.get_cmap().name == "inferno"} == {
            top
        }


def test_report_of_the_floor(case):
    assert detect_case(case, EverythingPositive()).report().axes


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=0, max_size=160), st.integers(1, 8))
def test_telling_slices(amount, n):
    amount = np.array(amount, float)
    chosen = representative_slices(amount, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= n
    assert all(amount[k] > 0 for k in chosen)
    if amount.any():
        assert amount[chosen].max() == amount.max()


def test_save_is_all_or_nothing(case, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    found = detect_case(case, ready())
    monkeypatch.setattr(
        type(found), "report", lambda self: (_ for _ in ()).throw(MemoryError("no room for the picture"))
    )
    with pytest.raises(MemoryError):
        found.save(out)
    assert list(out.iterdir()) == []


def test_no_side_is_named_where_the_file_does_not_say_it(case):
    def letters(found):
        return {t.get_text() for ax in found.report().axes for t in ax.texts} & {"R", "L"}

    found = detect_case(case, ready())
    assert letters(found) == {"R", "L"}
    case.notes.append("left and right are not known")
    case.grid.geometry.update(qform_code=0, sform_code=0)
    assert not letters(found)
    assert "left and right are not known" in found.report().get_suptitle()


def test_a_long_note_stays_inside_the_picture(case):
    case.notes.append("flair: 6.5% of its brain is negative, as where values ran over in int16; export it again; " * 3)
    figure = detect_case(case, ready()).report()
    figure.draw_without_rendering()
    title, page = figure._suptitle.get_window_extent(), figure.bbox
    assert page.x0 <= title.x0 < title.x1 <= page.x1


def test_what_was_not_measured_is_not_judged(case):
    everything = EverythingPositive()
    before = detect_case(case, everything).segmentation
    assert before[:, :, 4].any()
    case.unmeasured["flair"] = np.zeros_like(case.brain)
    case.unmeasured["flair"][:, :, 4] = True
    after = detect_case(case, everything).segmentation
    assert not after[:, :, 4].any()
    assert (after == before)[:, :, 5:].all()
