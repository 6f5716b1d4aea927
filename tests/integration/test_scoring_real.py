"""The plain threshold on real patients scores as it always did. MMCCD_REAL is their folder; skipped without it."""

import os
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest

from mmccd.scoring import slice_protocol
from mmccd.summary import everything_positive, score_subjects

REAL = Path(os.environ.get("MMCCD_REAL") or Path(__file__).resolve().parents[3] / "shared" / "real") / "brats2021"


def load(folder, what):
    return np.asarray(nibabel.load(folder / f"{folder.name}_{what}.nii.gz").dataobj)


@cache
def lesion_of(folder):
    return load(folder, "seg") > 0


@pytest.mark.real
@pytest.mark.skipif(not REAL.is_dir(), reason="no real patients here")
@pytest.mark.parametrize(
    ("modality", "sign", "oracle", "ap"), [("flair", 1, 0.73, 0.81), ("t2", 1, 0.47, 0.42), ("t1", -1, 0.28, 0.19)]
)
def test_plain_threshold_on_real_patients(modality, sign, oracle, ap):
    "Eight gliomas, slice protocol, each scaled by the median and interquartile range of its volume, T1 taken as dark."
    subjects = []
    for folder in sorted(REAL.iterdir()):
        v = load(folder, modality).astype(np.float32)
        low, median, high = np.percentile(v[v > 0], (25, 50, 75))
        subjects.append((folder.name, *slice_protocol(sign * (v - median) / (high - low), lesion_of(folder), v > 0)))
    found = score_subjects(subjects)["summary"]
    floor = score_subjects(everything_positive(subjects))["summary"]
    assert found["ap"]["n"] == 8
    assert found["dice_oracle"]["mean"] == pytest.approx(oracle, abs=0.02)
    assert found["ap"]["mean"] == pytest.approx(ap, abs=0.02)
    assert floor["dice_oracle"]["mean"] == pytest.approx(0.26, abs=0.02)
    assert floor["ap"]["mean"] == pytest.approx(0.16, abs=0.02)
