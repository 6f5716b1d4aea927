"""Real patients go through: skipped where they are absent. Set MMCCD_REAL to their folder."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mmccd.cases.brain import brain_mask
from mmccd.cases.case import Case
from mmccd.cases.grid import GEOMETRY
from mmccd.cases.names import case_files, find_cases
from mmccd.cases.nifti import read_labels

REAL = Path(os.environ.get("MMCCD_REAL") or Path(__file__).resolve().parents[3] / "shared" / "real")
CASES = find_cases([REAL / "brats2021", REAL / "ms_lesion"]) if REAL.is_dir() else []
pytestmark = pytest.mark.real
needs_real = pytest.mark.skipif(not CASES, reason="no real patients here")
each = pytest.mark.parametrize("path", [p for _, p in CASES], ids=[i for i, _ in CASES])


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@needs_real
def test_all_nine_are_found():
    assert len(CASES) == 9
    assert len({i for i, _ in CASES}) == 9


@needs_real
@each
def test_real_case(path, tmp_path):
    case, files = Case.load(path), case_files(path)
    assert set(case.volumes) | {"seg"} == set(files)
    assert case.lesion.any()
    assert "".join(nib.aff2axcodes(case.affine)) == "LPS"
    union = np.logical_or.reduce([v > 0 for v in case.volumes.values()])
    assert dice(case.brain, union) > 0.995  # nothing lost, nothing invented
    assert (case.lesion & ~case.brain).sum() <= 5  # a few lesion voxels of the MS patient have no signal
    assert dice(brain_mask({"flair": case.volumes["flair"]}), case.brain) > 0.99  # one modality is enough
    healthy = case.brain & ~case.lesion
    for m in case.volumes:
        n = case.normalised(m)[healthy]
        assert np.mean(np.abs(n) <= 1) > 0.8, m  # the MS patient's mask holds much fluid
        assert abs(np.median(n)) < 0.1, m
    for m in ("flair", "seg"):
        case.save(case.volumes[m] if m in case.volumes else read_labels(files[m])[0], tmp_path / "out.nii.gz")
        source, back = nib.load(files[m]), nib.load(tmp_path / "out.nii.gz")
        assert_array_equal(np.asanyarray(source.dataobj), np.asanyarray(back.dataobj))
        assert_array_equal(source.affine, back.affine)
        flair = nib.load(files["flair"])
        for k in GEOMETRY:
            assert_array_equal(flair.header[k], back.header[k])
    check_upright(case.brain)


def check_upright(brain):
    "Left and right of a brain are nearly symmetric, other sides are not; cerebellum and stem lie low and behind."
    box = brain[np.ix_(*(brain.any(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)))]
    assert dice(box, box[::-1]) > max(0.9, dice(box, box[:, ::-1]))
    low, middle = box[:, :, : box.shape[2] // 4], box.shape[1] // 2
    assert low[:, middle:].sum() > low[:, :middle].sum()
