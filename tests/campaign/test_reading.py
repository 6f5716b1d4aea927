"""The campaign notices what it is there to notice: its second reader, its odd files, and its ledger."""

import random

import numpy as np
import pytest
from ledger import Ledger
from mutants import flipped, image, nifti, odd, packed
from reading import Reading, UnreadableError, difference, read, unpacked
from scenes import changes, snapshot
from toy_cases import AFFINE

from mmccd.cases.case import Case


@pytest.fixture
def found(tmp_path):
    "A scan of another orientation, as the second reader and as a case have it."
    content = nifti(np.transpose(image()[::-1], (1, 0, 2)), AFFINE[:, [1, 0, 2, 3]] * [1, -1, 1, 1])
    (tmp_path / "x_flair.nii").write_bytes(content)
    case = Case.load(tmp_path / "x_flair.nii")
    return read(content), case.volumes["flair"], case.affine


def test_the_two_readers_agree(found):
    assert difference(*found) == ""


def test_what_is_another_is_noticed(found):
    reading, values, affine = found
    one = values.copy()
    one[3, 4, 5] += 1
    aside = affine.copy()
    aside[0, 3] += 1
    assert difference(reading, one, affine) == "other values"
    assert difference(reading, values[::-1], affine) == "other values"
    assert difference(reading, values, aside) == "the voxels lie elsewhere"
    assert difference(reading, values, affine * [1, 2, 1, 1]) == "other millimetres"
    right = affine @ np.diag([-1.0, 1, 1, 1])
    right[:3, 3] += affine[:3, 0] * (len(values) - 1)
    assert difference(reading, values[::-1], right) == "the axes do not lead to the left, to the back and up"
    assert difference(Reading(reading.values, None), values, affine) == ""


def test_damaged_gzip_is_unreadable():
    whole = packed(nifti(image()))
    assert unpacked(whole + whole) == 2 * unpacked(whole)
    for broken in (whole[:-1], flipped(whole[:-8], random.Random(0), 1) + whole[-8:]):
        with pytest.raises(UnreadableError):
            read(broken)


@pytest.mark.parametrize("seed", range(20))
def test_odd_files_are_right(tmp_path, seed):
    mutant = odd(random.Random(seed))
    (tmp_path / "x_flair.nii.gz").write_bytes(mutant.content)
    case = Case.load(tmp_path / "x_flair.nii.gz")
    assert difference(read(mutant.content), case.volumes["flair"], case.affine) == "", mutant.what


def test_a_folder_is_compared_but_for_times(tmp_path):
    (tmp_path / "a.json").write_text('{"seconds": 1, "threshold": 2, "status": "done"}')
    before = snapshot(tmp_path)
    (tmp_path / "a.json").write_text('{"seconds": 3, "threshold": 2, "status": "skipped"}')
    assert not changes(snapshot(tmp_path), before)
    (tmp_path / "a.json").write_text('{"seconds": 1, "threshold": 3}')
    (tmp_path / ".x.part").touch()
    assert changes(snapshot(tmp_path), before) == "changed a.json; left over .x.part"
    (tmp_path / "a.json").unlink()
    assert "missing a.json" in changes(snapshot(tmp_path), before)


def test_a_ledger_counts():
    ledger = Ledger("toy")
    ledger.note("a", "refused")
    ledger.note("b", "refused", "a\ntraceback")
    again = Ledger.from_json(ledger.as_json())
    again.add(ledger)
    assert (again.tried, again.survived["refused"], again.losses) == (4, 2, 2 * ["b: a traceback"])
