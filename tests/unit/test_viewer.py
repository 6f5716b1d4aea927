"""The notebook that shows results in NiiVue."""

import json
import sys

import nbformat
import pytest
from toy_detection import DETECT, refused

from mmccd.detection.viewer import show_result, viewer_volumes, write_viewer


@pytest.fixture
def results(tmp_path, cases, run, quick_reports):
    code, out, _ = run(*DETECT, cases, "--out", tmp_path / "out", "--viewer")
    assert code == 0
    assert out.splitlines()[-1] == f"jupyter lab {tmp_path / 'out' / 'viewer.ipynb'} shows them in three dimensions"
    return tmp_path / "out"


def test_the_notebook_shows_every_case(results, monkeypatch):
    notebook = nbformat.read(results / "viewer.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    assert code[1:] == ["show_result('c0')", "show_result('c1')", "show_result('c2')"]
    monkeypatch.chdir(results)
    names = {}
    for line in code:
        exec(f"shown = {line}" if line.startswith("show") else line, names)
        if line.startswith("show"):
            assert [v.name for v in names["shown"].volumes][-1].endswith("_anomaly.nii.gz")


def test_the_map_is_seen_from_its_threshold_on(results):
    scan, anomaly = viewer_volumes(results / "c0")
    record = json.loads((results / "c0" / "c0_detect.json").read_text())
    assert scan["path"].name == "c0_flair.nii.gz"
    assert (scan["opacity"], scan["colormap"]) == (1.0, "gray")
    assert (anomaly["cal_min"], anomaly["cal_max"]) == (t := record["case"]["threshold"], 2 * t)


def test_what_is_missing_is_said(results, cases, monkeypatch, tmp_path, run):
    with pytest.raises(ValueError, match=r"holds no result: name the folder of a case that mmccd detect wrote\.$"):
        show_result(tmp_path)
    (cases / "c0" / "c0_flair.nii.gz").rename(tmp_path / "moved.nii.gz")
    with pytest.raises(
        ValueError, match=r"c0_flair\.nii\.gz: it is not there any more; put it back, or detect again\.$"
    ):
        show_result(results / "c0")
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    with pytest.raises(ValueError, match=r"needs ipyniivue.*pip install 'mmccd\[notebooks\]'$"):
        show_result(results / "c1")


def test_no_notebook_where_nothing_was_found(tmp_path, run):
    (tmp_path / "empty").mkdir()
    refused(run(*DETECT, tmp_path / "empty", "--out", tmp_path / "out", "--viewer"))
    assert not (tmp_path / "out" / "viewer.ipynb").exists()


def test_a_name_with_quotes_stays_a_name(tmp_path):
    name = 'it\'s \\ "odd"'
    notebook = nbformat.read(write_viewer(tmp_path, [name]), as_version=4)
    assert eval(notebook.cells[-1].source.removeprefix("show_result")) == name
