"""What users name: the home folder, and letters that a terminal, a code page or matplotlib take for something."""

import io
import logging
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from toy_cases import write_case
from toy_detection import DETECT, refused

from mmccd.cases.case import Case
from mmccd.cases.names import find_cases
from mmccd.cases.phantoms import Phantoms, make_subjects
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import read_list
from mmccd.cli.app import arguments, main
from mmccd.detection import detect_many, evaluate
from mmccd.detector import Threshold, load_detector
from mmccd.files import output_folder, user_path
from mmccd.viz import show_rows

pytestmark = pytest.mark.usefixtures("quick_reports")


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home folder, beside the folder one works in, which has a folder that is really called ~."
    (tmp_path / "home").mkdir()
    (tmp_path / "work/~").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert sorted(p.name for p in (tmp_path / "work").iterdir()) == ["~"], "nothing is written into the folder ~"


def test_the_home_folder_is_known_in_one_place(home):
    assert user_path("~") == home
    assert user_path("~/a b") == user_path(Path("~/a b")) == home / "a b"
    assert user_path(user_path("./~/x")) == home.parent / "work/~/x"
    for other in ("a/~", "a~", "~nobody-of-that-name/x", "/~/x", ".", "-"):
        assert user_path(other) == Path(other)


def test_who_has_no_home_is_told_so(monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda text: text)
    for path in ("~", "~/x"):
        with pytest.raises(
            ValueError, match=rf"Cannot read {path}: this user has no home folder; write the path in full"
        ):
            user_path(path)
    assert main(["detect", "~/x", "--out", "y"]) == 2


def test_python_functions_know_the_home_folder(home):
    write_case(home / "cases", "a", ("flair", "seg"))
    (home / "list.txt").write_text("a\n")
    assert Case.load("~/cases/a").id == "a"
    assert find_cases("~/cases") == [("a", home / "cases/a")]
    assert read_list("~/list.txt") == ["a"]
    detector = Threshold()
    detector.calibration = {"threshold": 1.0}
    detector.save_pretrained("~/run")
    assert load_detector("~/run").threshold == 1
    detect_many("~/cases", detector, "~/out")
    assert evaluate("~/out", ["~/cases/a"])["scores"]
    assert [m["folder"] for m in make_subjects("~/made", [("healthy", 0)], 0, range(70, 71), progress=False)]
    assert prepare(Phantoms(healthy=1), "~/s.zarr", size=32, slices=range(70, 71), progress=False)["cases"] == 1
    assert len(SliceStore("~/s.zarr").ids) == 1
    with output_folder("~/new") as folder:
        (folder / "x").touch()
    wanted = ["cases", "list.txt", "made", "new", "out", "run", "s.zarr"]
    assert sorted(p.name for p in home.iterdir()) == wanted


def test_a_case_in_a_folder_that_is_called_so(home):
    write_case(Path("./~").absolute(), "b", ("flair",))
    assert [id for id, _ in find_cases("./~")] == ["b"]
    assert [Case.load(path).id for _, path in find_cases(".")] == ["b"]


def test_the_command_line_knows_it_in_any_shell(home):
    words = ["detect", "~/a", "--out=~/b", "--weights", "~/run:t1", "--only=~x", "./~/c", "~", "--json=~/r.json"]
    here = home.parent / "work"
    expected = [f"{home}/a", f"--out={home}/b", "--weights", f"{home}/run:t1", "--only=~x", f"{here}/~/c", str(home)]
    assert arguments(words)[0] == ["detect", *expected, f"--json={home}/r.json"]


def test_another_code_page_costs_no_result(tmp_path, monkeypatch):
    write_case(tmp_path / "cases", "患者01", ("flair",))
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert main([*DETECT, str(tmp_path / "cases"), "--out", str(tmp_path / "out")]) == 0
    for stream in streams:
        stream.flush()
    assert b"\\u60a3\\u800501: " in streams[0].buffer.getvalue()
    assert (tmp_path / "out/患者01/患者01_report.png").stat().st_size


def test_nothing_that_a_terminal_obeys_is_printed(run, tmp_path):
    bad = tmp_path / "p\x1b[2J_flair.nii.gz"
    good = write_case(tmp_path / "cases", "a", ("flair",))
    code, out, err = run(*DETECT, bad, good, "--out", tmp_path / "out")
    assert code == 2
    assert "a: " in out
    assert r"p\x1b[2J" in err
    assert (out + err).replace("\n", "").isprintable()
    refused(run("detect", good, "--out", tmp_path / "out", "--weights", "x\x1b]0;y\x07/z"), r"x\x1b]0;y\x07/z")


def test_libraries_keep_their_notes_to_themselves(run, monkeypatch):
    def noisy(options):
        warnings.warn("a glyph is missing", UserWarning, stacklevel=1)
        logging.getLogger("matplotlib.font").warning("no home")
        logging.getLogger("nibabel.global").error("pixdim[0]")
        return 0

    monkeypatch.setattr(sys.modules["mmccd.cli.app"], "run_command", noisy)
    assert run("detect") == (0, "", "")


@pytest.mark.parametrize("name", ["a$1$", "p$_{x$", "p$\\frac$", "100%_x", "p_{1}^2", "$"])
def test_a_name_in_a_picture_is_no_mathematics(name):
    sheet = show_rows([[np.zeros((8, 8))]], titles=[name], row_titles=[name], title=name)
    sheet.draw_without_rendering()
    assert sheet.get_suptitle() == name
