"""Many kinds of bad input, each made of a good case, and the words that the sentence about it must hold."""

import nibabel as nib
import numpy as np
from toy_cases import AFFINE, volumes


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)


def four_d(case):
    save(case / "bad_flair.nii.gz", np.stack([volumes()[0]] * 3, -1))


def nan(case):
    image = volumes()[0]
    image[12, 14, 5] = np.nan
    save(case / "bad_flair.nii.gz", image)


def all_zero(case):
    save(case / "bad_flair.nii.gz", np.zeros((24, 28, 10), np.float32))


def affines_differ(case):
    save(case / "bad_seg.nii.gz", volumes()[1], AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))


def truncated(case):
    file = case / "bad_flair.nii.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty_folder(case):
    for f in case.iterdir():
        f.unlink()


def dicom(case):
    empty_folder(case)
    (case / "IM0001.dcm").write_bytes(b"DICM")


def dangling_link(case):
    (case / "bad_flair.nii.gz").unlink()
    (case / "bad_flair.nii.gz").symlink_to("gone.nii.gz")


def singular(case):
    save(case / "bad_flair.nii.gz", volumes()[0], AFFINE[:, [0, 0, 2, 3]])


def several_patients(case):
    (case / "other_flair.nii.gz").write_bytes((case / "bad_flair.nii.gz").read_bytes())


def text_file(case):
    (case / "bad_flair.nii.gz").write_text("patient, date\n7, yesterday\n")


def missing_path(case):
    empty_folder(case)
    case.rmdir()


KINDS = {
    four_d: ("bad_flair.nii.gz", "4-D"),
    nan: ("bad_flair.nii.gz", "NaN"),
    all_zero: ("bad_flair.nii.gz", "0"),
    affines_differ: ("bad_seg.nii.gz", "affine"),
    truncated: ("bad_flair.nii.gz", "cut off"),
    empty_folder: ("bad", "no NIfTI"),
    text_file: ("bad_flair.nii.gz", "not a NIfTI"),
    missing_path: ("bad", "there is no such"),
    dicom: ("bad", "dcm2niix"),
    dangling_link: ("bad_flair.nii.gz", "there is no such file"),
    singular: ("bad_flair.nii.gz", "where the voxels lie"),
    several_patients: ("bad", "several patients"),
}


def one_sentence(err, words):
    "One plain sentence on standard error, with `words` in it."
    assert err.startswith("mmccd: "), err
    assert err.count("\n") == 1, err
    assert err.endswith(".\n"), err
    assert "Traceback" not in err
    assert "Error" not in err
    for w in words:
        assert w in err, err
