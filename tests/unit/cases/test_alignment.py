"""Images that lie apart and heads that are cut off are named; what is as it should be is not."""

import nibabel as nib
import numpy as np
import pytest
from toy_cases import write_case

from mmccd.cases.alignment import cut_off, shifted_modalities
from mmccd.cases.case import Case
from mmccd.phantom import make_phantom


@pytest.fixture(scope="module")
def head():
    "A phantom of 60 slices, 2 mm apart."
    case = Case.from_phantom(make_phantom("glioma", 405, 0, range(22, 142, 2), twin=False))
    return case


def test_a_head_as_it_should_be(head):
    assert shifted_modalities(head.volumes, head.brain, head.affine) == []
    assert cut_off(head.brain, head.affine) == []


@pytest.mark.parametrize(
    ("axis", "words"), [(0, "left to right"), (1, "front to back"), (2, "top to bottom")], ids="xyz"
)
def test_one_that_is_moved(head, axis, words):
    moved = dict(head.volumes) | {"t2": np.roll(head.volumes["t2"], (6, 6, 3)[axis], axis)}
    notes = shifted_modalities({m: moved[m] for m in ("flair", "t2")}, head.brain, head.affine)
    assert len(notes) == 1
    assert notes[0].startswith("flair and t2 seem to lie millimetres apart")
    assert words in notes[0]
    assert notes[0].endswith("register them to each other")


def test_one_modality_or_too_little_of_a_head(head):
    assert shifted_modalities({"t1": head.volumes["t1"]}, head.brain, head.affine) == []
    few = (..., slice(30, 34))
    part = {m: v[few] for m, v in head.volumes.items()}
    assert shifted_modalities(part, head.brain[few], head.affine) == []
    assert cut_off(head.brain[few], head.affine) == []


@pytest.mark.parametrize(
    ("index", "side"),
    [
        (np.s_[120:], "right"),
        (np.s_[:120], "left"),
        (np.s_[:, 120:], "front"),
        (np.s_[:, :120], "back"),
        (np.s_[:, :, :50], "top"),
    ],
)
def test_a_head_that_is_cut(head, index, side):
    sides = {"affine": head.affine}
    note = cut_off(head.brain[index], sides["affine"] if side != "top" else head.affine * [1, 1, 1.2, 1])
    assert len(note) == 1
    assert f"cut off at the {side} of the image" in note[0]


def test_check(run, tmp_path, head):
    for m in ("flair", "t2"):
        image = head.volumes[m] if m == "flair" else np.roll(head.volumes[m], 7, 1)
        (tmp_path / "a").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image, head.grid.affine), tmp_path / "a" / f"a_{m}.nii.gz")
    write_case(tmp_path, "b", ("t1",))
    (tmp_path / "c").mkdir()
    (tmp_path / "c/c_flair.nii.gz").write_bytes(b"no image")
    code, out, err = run("check", tmp_path)
    assert code == 2
    assert "a: flair, t2\n" in out
    assert "\n  flair and t2 seem to lie millimetres apart, front to back; register them to each other\n" in out
    assert "b: t1; nothing odd\n2 of 3 cases can be used, 1 with something to look at\n" in out
    assert err.count("\n") == 1
    assert "c_flair.nii.gz" in err


def test_check_as_json(run, tmp_path):
    write_case(tmp_path, "b", ("t1", "t2"))
    code, out, err = run("check", tmp_path / "b", "--json")
    assert (code, err) == (0, "")
    assert '"modalities"' in out
    assert '"error": null' in out
