"""The page of a case: levels keep the threshold, volumes are the case's own, the file stands alone and stays small."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from toy_cases import write_case
from toy_detection import ready

from mmccd.cases.case import Case
from mmccd.detection.detect import detect_case
from mmccd.detection.page import LEVEL, MOST_BYTES, case_page, page_data, to_levels
from mmccd.detector import EverythingPositive


def data_of(page):
    return json.loads(re.search(r"const D = (\{.*\});", page)[1])


def picture(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("L"))


@pytest.mark.parametrize("threshold", [0.02, 1.0, 7.5])
def test_levels_keep_the_threshold(threshold):
    a = np.concatenate([[0, threshold, np.nextafter(threshold, 9)], np.linspace(0, 9 * threshold, 5000)])
    levels = to_levels(a, threshold)
    assert ((levels >= LEVEL + 1) == (a > threshold)).all()
    assert ((levels == 0) == (a == 0)).all()
    assert (np.diff(levels[3:].astype(int)) >= 0).all()


def test_what_the_page_holds(case):
    found = detect_case(case, ready())
    d = data_of(case_page(found))
    assert d["ml"][d["level"]] == pytest.approx(found.volume_ml, abs=0.01)
    assert d["ml"][0] >= d["ml"][1] >= d["ml"][255]
    assert d["inputs"] == ["flair"]
    rows = -(-len(d["slices"]) // d["columns"])
    assert picture(d["images"]["map"]).shape == (rows * d["height"], d["columns"] * d["width"])
    assert picture(d["images"]["map"]).max() == to_levels(found.anomaly, 2.0)[case.brain].max()
    assert (picture(d["images"]["truth"]) == 255).any()
    marked = found.segmentation.sum((0, 1))[d["slices"]]
    assert marked[d["start"]] == marked.max()


def test_it_stands_alone_and_nothing_in_it_is_run(case):
    case.id = "a</script><b>"
    case.notes.append("a note </script><script>alert(1)</script>")
    page = case_page(detect_case(case, ready()))
    assert page.count("<script>") == page.count("</script>") == 1
    assert not re.search(r"""(src|href)=["']?(http|//|file)""", page)
    assert "default-src 'none'" in page
    assert "<b>" not in page


def test_nothing_and_everything_marked(case):
    for detector in (ready(threshold=1e5), EverythingPositive()):
        found = detect_case(case, detector)
        d = page_data(found)
        assert d["ml"][d["level"]] == pytest.approx(found.volume_ml, abs=0.01)
        assert 0 <= d["start"] < len(d["slices"])


def test_a_large_case_of_noise_stays_small(tmp_path, monkeypatch):
    "The worst case for a picture: nothing in the map can be packed."
    case = Case.load(write_case(tmp_path, "a"), ["flair"])
    found = detect_case(case, ready())
    rng = np.random.default_rng(0)
    shape = (380, 390, 170)
    found.anomaly = rng.random(shape, np.float32) * 8
    found.segmentation = found.anomaly > 2
    case.volumes, case.lesion = {"flair": rng.random(shape, np.float32) + 1}, None
    case.brain = np.ones(shape, bool)
    page = case_page(found)
    assert len(page.encode()) <= MOST_BYTES
    assert len(data_of(page)["slices"]) <= 160
