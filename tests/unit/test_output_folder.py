"""Output folders, error sentences, tables and grids, as detection uses them."""

import numpy as np
import pytest

from mmccd.cases.grid import protocol_slices, volume_ml
from mmccd.errors import format_error
from mmccd.files import output_folder
from mmccd.tables import align_table


@pytest.mark.parametrize("after", ["nothing", "file"])
def test_output_folder(tmp_path, after):
    out = tmp_path / "a" / "b"
    with output_folder(out) as made:
        if after == "file":
            (made / "x").write_text("kept")
    assert out.exists() == (after == "file")
    assert tmp_path.exists()


def test_output_folder_keeps_an_empty_one_that_was_there(tmp_path):
    with output_folder(tmp_path):
        pass
    assert tmp_path.exists()


def test_output_folder_is_a_file(tmp_path):
    (tmp_path / "f").write_text("mine")
    for out in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(ValueError, match="a file is where a folder should be"), output_folder(out):
            pass
    assert (tmp_path / "f").read_text() == "mine"


def test_plain():
    assert format_error(ValueError("a\n b")) == "a b"
    assert format_error(KeyError("k")).startswith("Unexpected KeyError")
    assert format_error(ValueError("no slice 3"), "a") == "a: no slice 3"  # there is an a in it, but no name
    for named in ("flair of a has no contrast", "/x/a/a_flair.nii is damaged", "a: no slice 3"):
        assert format_error(ValueError(named), "a") == named
    assert format_error(KeyError("k"), "a").startswith("a: Unexpected KeyError")
    assert format_error(MemoryError()) == "Unexpected MemoryError: no message"


def test_align():
    assert align_table("x\n| a | bbb |\n| --- | --- |\n| cc | d |") == "x\n| a   | bbb |\n| --- | --- |\n| cc  | d   |"


def test_volume():
    assert volume_ml(np.ones((10, 10, 10), bool), np.eye(4)) == 1
    turned = np.array([[0, 0, 3.0, 5], [2, 0, 0, 1], [0, -1, 0, 9], [0, 0, 0, 1]])
    assert volume_ml(np.ones((1, 1, 1), bool), turned) == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("shape", "start", "expected"),
    [
        ((240, 240, 155), 0, range(70, 90)),
        ((240, 240, 20), 70, range(20)),
        ((240, 240, 155), -2, range(70, 90)),
        ((240, 240, 40), 80, range(10)),
        ((240, 240, 30), 0, range(30)),
        ((182, 218, 182), 0, range(182)),
    ],
)
def test_protocol_slices(shape, start, expected):
    affine = np.diag([-1.0, -1, 1, 1])
    affine[1, 3], affine[2, 3] = 239, start
    assert protocol_slices(shape, affine) == expected
