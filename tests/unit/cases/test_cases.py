"""Files into cases and back: every orientation, every naming we know, and every way a file can be broken."""

import gzip
import io
import itertools
import os
import re
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from isal import isal_zlib
from numpy.testing import assert_allclose, assert_array_equal

from mmccd.anatomy import MODALITIES
from mmccd.cases.brain import brain_mask
from mmccd.cases.case import Case
from mmccd.cases.grid import GEOMETRY, Grid, voxel_size
from mmccd.cases.names import case_files, case_id, find_cases, find_files, split_name
from mmccd.cases.nifti import read_labels, read_volume, write_nifti
from mmccd.cases.phantoms import write_phantom
from mmccd.intensity import DEFAULT, METHODS, normalise
from mmccd.phantom import make_phantom
from mmccd.slices import to_slices, to_volume

ORIENTATIONS = ["".join(c) for axes in itertools.permutations(("LR", "AP", "SI")) for c in itertools.product(*axes)]
TILT = np.array([[0.98, -0.17, 0.05], [0.17, 0.98, 0.1], [-0.07, -0.09, 0.99]])
BRATS = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


def head(shape=(14, 16, 9), seed=0):
    "A ball with texture in a background of 0, float32."
    axes = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    inside = sum((a / 0.8) ** 2 for a in axes) < 1
    return np.where(inside, np.random.default_rng(seed).uniform(200, 400, shape), 0).astype(np.float32)


def turned(image, axes):
    return image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    )


def put(path, array, affine=BRATS):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(array, affine).to_filename(path)
    return path


def sentence(read, *args, **kw):
    "The one sentence of an error, its form checked."
    with pytest.raises(ValueError) as caught:
        read(*args, **kw)
    text = str(caught.value)
    assert type(caught.value) is ValueError, text
    assert "\n" not in text, text
    assert text.endswith("."), text
    return text


# ---- orientation, there and back ---------------------------------------------------------------------------------


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("kind", ["float", "int16", "scaled", "oblique", "nifti2", "qform", "units"])
@pytest.mark.parametrize("axes", ORIENTATIONS)
def test_read_and_write_back_is_exact(tmp_path, axes, kind):
    affine = BRATS.copy()
    if kind in ("oblique", "qform"):
        affine[:3, :3] = np.linalg.qr(TILT)[0] @ np.diag([0.9, 1.2, 3])
    if kind == "units":
        affine[:3] *= 1e-3
    array = head() if kind not in ("int16", "scaled") else head().astype(np.int16)
    image = turned((nib.Nifti2Image if kind == "nifti2" else nib.Nifti1Image)(array, affine), axes)
    if kind == "scaled":
        image.header.set_slope_inter(0.25, -3)
    if kind == "qform":
        image.set_sform(None, 0)
        image.set_qform(image.affine, 1)
    if kind == "units":
        image.header["xyzt_units"] = 1  # metres
    image.to_filename(tmp_path / "in.nii")
    if kind == "scaled":  # as scanners write it: integers on disk, a scale in the header
        raw = bytearray((tmp_path / "in.nii").read_bytes())
        raw[112:120] = np.array([0.25, -3], "<f4").tobytes()
        (tmp_path / "in.nii").write_bytes(raw)
    volume, grid = read_volume(tmp_path / "in.nii")
    source = nib.load(tmp_path / "in.nii")
    assert volume.dtype == np.float32
    assert_allclose(voxel_size(grid.affine), voxel_size(source.affine) * (1000 if kind == "units" else 1))
    assert "".join(nib.aff2axcodes(grid.lps_affine)) == "LPS"
    assert volume.shape == grid.lps_shape
    write_nifti(volume, grid, tmp_path / "out.nii.gz")
    back = nib.load(tmp_path / "out.nii.gz")
    assert_array_equal(np.asanyarray(back.dataobj), np.asarray(source.dataobj, np.float32))
    assert_array_equal(back.affine, source.affine)
    assert type(back) is type(source)
    for k in GEOMETRY:
        assert_array_equal(back.header[k], source.header[k], err_msg=k)
    if kind == "scaled":
        assert source.get_fdata().min() == -3
        assert source.get_data_dtype() == np.int16


def test_scaled_integers_with_both_forms_and_4d_singleton(tmp_path):
    image = nib.Nifti1Image(head()[..., None], BRATS)
    image.set_qform(BRATS, 3)
    image.set_sform(BRATS, 4)
    image.to_filename(tmp_path / "a.nii.gz")
    volume, grid = read_volume(tmp_path / "a.nii.gz")
    assert_array_equal(volume, head())
    write_nifti(volume, grid, tmp_path / "b.nii.gz")
    back = nib.load(tmp_path / "b.nii.gz")
    assert back.shape == head().shape
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (3, 4)


def test_every_orientation_of_a_patient_is_the_same_case(tmp_path):
    image = nib.Nifti1Image(head(), BRATS)
    expected = Case.load(put(tmp_path / "p_flair.nii", head()))
    for axes in ORIENTATIONS:
        turned(image, axes).to_filename(tmp_path / "q_flair.nii")
        case = Case.load(tmp_path / "q_flair.nii")
        assert_array_equal(case.slices("flair"), expected.slices("flair"))
        assert_array_equal(case.brain, expected.brain)
        assert_allclose(case.affine, expected.affine)


def test_files_in_different_boxes_but_the_same_places_are_one_case(tmp_path):
    image = nib.Nifti1Image(head(), BRATS)
    turned(image, "RAS").to_filename(tmp_path / "p_t1.nii")
    turned(image, "PSR").to_filename(tmp_path / "p_flair.nii")
    case = Case.load(tmp_path)
    assert_array_equal(case.volumes["t1"], case.volumes["flair"])
    case.save(case.volumes["t1"], tmp_path / "out.nii.gz")
    assert_array_equal(nib.load(tmp_path / "out.nii.gz").affine, nib.load(tmp_path / "p_flair.nii").affine)


def test_slices_are_radiological():
    v = np.zeros((5, 6, 4), np.float32)
    v[4, 0, 2] = 1  # left, anterior
    s = to_slices(v)
    assert s.shape == (4, 1, 6, 5)
    assert s.nonzero().tolist() == [[2, 0, 0, 4]]
    for a in (v, v > 0, v.astype(np.uint8)):
        assert to_slices(a).numpy().dtype == a.dtype
        assert_array_equal(to_volume(to_slices(a)), a)
    assert_array_equal(to_volume(to_slices(v).requires_grad_()), v)
    assert to_slices(v, 2).shape == (1, 1, 6, 5)
    assert to_slices(v, np.int64(2)).shape == (1, 1, 6, 5)
    assert_array_equal(to_slices(v, range(1, 3)), to_slices(v)[1:3])
    for wrong in (4, -1, range(70, 90)):
        assert "4 slices, 0 to 3" in sentence(to_slices, v, wrong)


# ---- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "Brats18_2013_0_1_flair.nii.gz": ("Brats18_2013_0_1", "flair"),
        "Brats18_2013_0_1_t1.nii.gz": ("Brats18_2013_0_1", "t1"),
        "BraTS20_Training_001_t1ce.nii": ("BraTS20_Training_001", "t1ce"),
        "BraTS2021_00000_T2.NII.GZ": ("BraTS2021_00000", "t2"),
        "BraTS-GLI-00000-000-t2f.nii.gz": ("BraTS-GLI-00000-000", "flair"),
        "BraTS-GLI-00000-000-t1n.nii.gz": ("BraTS-GLI-00000-000", "t1"),
        "BraTS-GLI-00000-000-t1c.nii.gz": ("BraTS-GLI-00000-000", "t1ce"),
        "BraTS-GLI-00000-000-t2w.nii.gz": ("BraTS-GLI-00000-000", "t2"),
        "BraTS-GLI-00000-000-seg.nii.gz": ("BraTS-GLI-00000-000", "seg"),
        "W39_1998.09.19_Segm.nii": ("W39_1998.09.19", "seg"),
        "sub-01_FLAIR.nii.gz": ("sub-01", "flair"),
        "sub-01_T1w.nii.gz": ("sub-01", "t1"),
        "p_T2_FLAIR.nii": ("p", "flair"),
        "p_T1_GD.nii": ("p", "t1ce"),
        "sub-1_ce-gd_T1w.nii": ("sub-1_ce-gd", "t1ce"),
        "flair.nii.gz": ("", "flair"),
        "P2_t1_brain.nii.gz": ("P2", "t1"),
        "P3_T1_MPRAGE.nii": ("P3", "t1"),
        "x_space-MNI_FLAIR_brain.nii.gz": ("x_space-MNI", "flair"),
        "flair_brain.nii": ("", "flair"),
        "p_T2_FLAIR_bet.nii": ("p", "flair"),
        "p_t1_ce_brain.nii": ("p", "t1ce"),
        "p_t1-t1_brain.nii": ("p", "t1"),
        "sub-1_space-T1w_FLAIR.nii": ("sub-1_space-T1w", "flair"),
        "t1_to_flair.nii": ("t1_to_flair", None),
        "p_t1_to_flair_1mm.nii": ("p_t1_to_flair_1mm", None),
        "p_t1_brain_mask.nii": ("p_t1_brain_mask", None),
        "p_T1_brainmask.nii": ("p_T1_brainmask", None),
        "p_T1_post.nii": ("p_T1_post", None),
        "p_t2_star.nii": ("p_t2_star", None),
        "pt1_brain.nii": ("pt1_brain", None),
        "p_t1ce_anomaly.nii.gz": ("p_t1ce_anomaly", None),
        "notes_t1": ("notes", "t1"),
        "at1.nii": ("at1", None),
        "p_segmentation.nii.gz": ("p_segmentation", None),
    }.items(),
)
def test_split_name(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize(
    "names",
    [
        "{}_flair.nii.gz {}_t1.nii.gz {}_t1ce.nii.gz {}_t2.nii.gz {}_seg.nii.gz",
        "{}_flair.nii {}_t1.nii {}_t1ce.nii {}_t2.nii {}_seg.nii",
        "{}-t2f.nii.gz {}-t1n.nii.gz {}-t1c.nii.gz {}-t2w.nii.gz {}-seg.nii.gz",
        "{}_FLAIR.NII.GZ {}_T1.NII {}_T1CE.nii.gz {}_T2.nii.GZ {}_SEG.NII.gz",
        "X_flair.nii {}_t1.nii {}_t1ce.nii Y_t2.nii W39_1998.09.19_Segm.nii",
    ],
)
def test_folder_in_any_naming(tmp_path, names):
    kinds = [*MODALITIES, "seg"]
    for i, (kind, name) in enumerate(zip(kinds, names.split())):
        path = tmp_path / "P7" / name.format("P7")
        put(tmp_path / "plain.nii.gz", (head() > 390).astype(np.uint8) if kind == "seg" else head() * (i + 1))
        content = (tmp_path / "plain.nii.gz").read_bytes()
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if path.suffix.lower() == ".gz" else gzip.decompress(content))
    (tmp_path / "P7/._P7_t1.nii").write_bytes(b"Mac")
    (tmp_path / "P7/P7_brain.nii").write_bytes(b"not wanted")
    case = Case.from_folder(tmp_path / "P7")
    assert case.id == "P7"
    assert list(case.volumes) == list(MODALITIES)
    for i, m in enumerate(MODALITIES):
        assert_array_equal(case.volumes[m], head() * (i + 1))
    assert_array_equal(case.lesion, head() > 390)
    assert list(Case.from_folder(tmp_path / "P7", ["t2", "t1"]).volumes) == ["t2", "t1"]
    assert "it has no pd, only flair, t1, t1ce, t2" in sentence(Case.load, tmp_path / "P7", "pd")


def test_two_claims_on_one_modality_name_both(tmp_path):
    for name in ("a_t1c.nii", "b_t1ce.nii.gz"):
        (tmp_path / name).touch()
    text = sentence(Case.load, tmp_path)
    assert "a_t1c.nii" in text
    assert "b_t1ce.nii.gz" in text
    assert "t1ce" in text


def test_a_stripped_copy_goes_first_and_then_an_ending(tmp_path):
    for name in ("a_flair.nii", "a_flair_n4.nii", "a_t1_brain.nii", "a_t1_mask.nii", "a_t2_bet.nii", "a_t2_brain.nii"):
        (tmp_path / name).touch()
    assert "a_t2_bet.nii and a_t2_brain.nii both claim to be t2; keep one of them" in sentence(case_files, tmp_path)
    (tmp_path / "a_t2_brain.nii").rename(tmp_path / "a_t2.nii")
    assert {m: p.name for m, p in case_files(tmp_path).items()} == {
        "flair": "a_flair.nii",
        "t1": "a_t1_brain.nii",
        "t2": "a_t2_bet.nii",
    }
    files = find_files(tmp_path, ["flair", "t2"])
    assert [p.name for p in files.images.values()] == ["a_flair.nii", "a_t2_bet.nii"]
    assert files.notes == ["a_t2_bet.nii is read, not a_t2.nii: it is the one without skull"]


@pytest.mark.parametrize("end", ["_flair.nii.gz", "_t1_brain.nii.gz"])
def test_several_patients_in_one_folder(tmp_path, end):
    for name in ("a", "b"):
        (tmp_path / f"{name}{end}").touch()
        (tmp_path / f"{name}_seg.nii.gz").touch()
    text = sentence(Case.load, tmp_path)
    assert f"({tmp_path}/*{end})" in text
    assert "several patients" in text
    assert "keep one" not in text
    (tmp_path / f"b{end}").unlink()
    files = find_files(tmp_path)
    assert files.seg is None
    assert files.notes == ["no segmentation is read, since several files claim to be it (a_seg.nii.gz, b_seg.nii.gz)"]
    assert "keep one of them" in sentence(case_files, tmp_path)


def test_bids(tmp_path):
    for id in ("sub-01", "sub-02", "sub-03_ses-1"):
        anat = tmp_path.joinpath(*id.split("_"), "anat")
        put(anat / f"{id}_FLAIR.nii.gz", head())
        put(anat / f"{id}_acq-fast_ce-gd_T1w.nii.gz", head())
        (anat / f"{id}_FLAIR.json").touch()
        touch(anat.parent / f"func/{id}_bold.nii.gz", anat.parent / f"dwi/{id}_dwi.nii.gz")
    assert find_cases(tmp_path) == [
        ("sub-01", tmp_path / "sub-01/anat"),
        ("sub-02", tmp_path / "sub-02/anat"),
        ("sub-03_ses-1", tmp_path / "sub-03/ses-1/anat"),
    ]
    case = Case.load(tmp_path / "sub-01/anat")
    assert case.id == "sub-01" == case_id(tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz")
    assert list(case.volumes) == [
        "flair",
        "t1ce",
    ]
    touch(tmp_path / "sub-9/anat/FLAIR.nii")
    assert case_id(tmp_path / "sub-9/anat") == case_id(tmp_path / "sub-9/anat/FLAIR.nii") == "sub-9"


def test_undecodable_names(tmp_path):
    good, bad = put(tmp_path / "a_flair.nii", head()), tmp_path / os.fsdecode(b"caf\xe9_flair.nii")
    bad.write_bytes(good.read_bytes())
    text = sentence(Case.load, bad, "flair")
    assert "characters that cannot be read; rename it" in text
    assert "caf\\udce9" in text
    assert text.encode()
    assert [i for i, _ in find_cases([good, bad])] == ["a", "caf\\udce9"]
    assert sentence(read_volume, bad.with_name(bad.name + "x")).encode()


def test_folders_that_are_no_cases(tmp_path):
    assert "it holds no NIfTI file" in sentence(Case.load, tmp_path)
    touch(tmp_path / "series/IM1.DCM")
    assert "convert them with dcm2niix" in sentence(Case.load, tmp_path)
    assert find_cases(tmp_path) == [(tmp_path.name, tmp_path)]
    touch(tmp_path / "scan.nii")
    assert "no NIfTI file in it is named after a modality" in sentence(Case.load, tmp_path)


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path):
    put(tmp_path / "a/a_flair.nii", head())
    (tmp_path / "b").mkdir()
    os.symlink("gone.nii", tmp_path / "b/b_flair.nii")
    assert [i for i, _ in find_cases(tmp_path)] == ["a", "b"]  # it does not vanish
    assert "b_flair.nii: there is no such file or folder behind this link" in sentence(Case.load, tmp_path / "b")


def touch(*paths):
    for p in paths:
        p.parent.mkdir(parents=True, exist_ok=True)
        p.touch()


def test_ids_that_differ_in_capitals_alone_are_refused(tmp_path):
    "Their results would lie in one folder where the disk knows no capitals, as on Windows and macOS."
    touch(tmp_path / "a/P1/P1_t1.nii", tmp_path / "b/p1/p1_t1.nii")
    with pytest.raises(ValueError, match=r"b/p1 are both called P1 \(not every disk tells capitals .*; rename one, or"):
        find_cases([tmp_path / "a", tmp_path / "b"])


def test_find_cases(tmp_path, monkeypatch):
    names = [f"HGG/p{i}/p{i}_{m}.nii.gz" for i in (10, 2, 1) for m in MODALITIES] + [
        "LGG/q/q-t2f.nii",
        "LGG/q/healthy_twin/q-t2f.nii",
        ".hidden/r/r_t1.nii",
        "loose/scan.nii.gz",
        "empty/readme.txt",
        "._x_t1.nii",
        "single/b_t2.nii.gz",
    ]
    touch(*(tmp_path / n for n in names))
    assert [i for i, _ in find_cases(tmp_path)] == ["p1", "p10", "p2", "q", "loose", "single"]
    assert (
        find_cases([tmp_path])
        == find_cases(str(tmp_path))
        == find_cases([tmp_path, tmp_path / "HGG", tmp_path / "HGG/p2"])
    )
    assert find_cases(tmp_path / "LGG/q/healthy_twin") == [("q_healthy_twin", tmp_path / "LGG/q/healthy_twin")]
    assert find_cases([tmp_path / "single/b_t2.nii.gz"]) == [("b", tmp_path / "single/b_t2.nii.gz")]
    assert [i for i, _ in find_cases([tmp_path / "LGG", tmp_path / "HGG/p2"])] == ["q", "p2"]
    for hopeless in ("empty", "nowhere", "nowhere.nii.gz"):  # stays, and is explained when read
        [(_, path)] = find_cases(tmp_path / hopeless)
        assert str(path) in sentence(Case.load, path)
    monkeypatch.chdir(tmp_path / "HGG/p1")
    assert find_cases(".") == [("p1", Path("."))]
    assert case_id("../p2") == "p2"
    touch(tmp_path / "again/q/q_t1.nii")
    assert "LGG/q" in (text := sentence(find_cases, tmp_path))
    assert "again/q" in text
    os.symlink(tmp_path / "LGG", tmp_path / "LGG/loop")
    assert [i for i, _ in find_cases(tmp_path / "LGG")] == ["q"]


def test_a_file_named_after_its_modality_only_takes_the_folder_name(tmp_path):
    path = put(tmp_path / "patient3/flair.nii.gz", head())
    assert Case.load(path).id == Case.load(path.parent).id == "patient3"


def test_single_file(tmp_path):
    path, scan = put(tmp_path / "b_t2.nii", head()), put(tmp_path / "scan.nii", head())
    assert list(Case.load(path).volumes) == list(Case.load(path, "t2").volumes) == ["t2"]
    assert Case.load(path).lesion is None
    assert list(Case.load(scan, ["flair"]).volumes) == ["flair"]
    assert Case.load(scan, "flair").id == "scan"
    assert "its name tells no modality" in sentence(Case.load, scan)
    assert "say which with --input" in sentence(Case.load, scan)
    assert "one file, t2, not flair; give --input t2" in sentence(Case.load, path, "flair")
    assert "it is a segmentation; name the image" in sentence(Case.load, put(tmp_path / "b_seg.nii", head()), "flair")
    assert "not flair and t2" in sentence(Case.load, path, ["flair", "t2"])
    touch(tmp_path / "notes.txt")
    assert "it is not a NIfTI file" in sentence(Case.load, tmp_path / "notes.txt", "flair")
    assert Case.load(scan, "flair").lesion_slices() is None


# ---- broken files ------------------------------------------------------------------------------------------------


def images():
    good = head()
    nan, inf, twins = good.copy(), good.copy(), BRATS.copy()
    nan[3, 3, 3], inf[3, 3, 3], twins[:, 1] = np.nan, np.inf, twins[:, 0]
    plain = nib.Nifti1Image(good, BRATS).to_bytes()
    zero_sform, nan_sform, no_dims, many_dims, bad_type = (bytearray(plain) for _ in range(5))
    zero_sform[280:296] = bytes(16)
    nan_sform[280:284] = np.array([np.nan], "<f4").tobytes()
    no_dims[42:44] = bytes(2)
    many_dims[40:42] = np.array([99], "<i2").tobytes()
    bad_type[70:72] = np.array([9999], "<i2").tobytes()
    huge = bytearray(plain)
    huge[42:48] = np.array([32767] * 3, "<i2").tobytes()
    damaged = bytearray(gzip.compress(plain))
    damaged[len(damaged) // 2] ^= 255
    stored = bytearray(gzip.compress(plain, 0))
    stored[-3000] ^= 1  # uncompressed inside: only the checksum can tell
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    return {
        "four": (np.stack([good] * 3, -1), "4-D"),
        "five": (np.zeros((4, 4, 4, 1, 3), np.float32), "5-D"),
        "two": (good[:, :, 4], "2-D"),
        "nan": (nan, "1 of its voxels are NaN or infinite; set them to 0 (fslmaths IN -nan OUT"),
        "inf": (inf, "NaN or infinite"),
        "zero": (good * 0, "every voxel is 0"),
        "empty": (b"", "0 bytes"),
        "text": (b"just some words " * 50, "not a NIfTI image"),
        "short": (b"x", "not a NIfTI image"),
        "text_in_gzip": (gzip.compress(b"just some words " * 50), "not a NIfTI image"),
        "complex": (good.astype(np.complex64), "its voxels are complex numbers"),
        "cut_late": (gzip.compress(plain)[:-200], "cut off"),
        "cut_early": (gzip.compress(plain)[:300], ""),
        "damaged": (bytes(damaged), "damaged"),
        "one_bit": (bytes(stored), "damaged"),
        "cut_tail": (gzip.compress(plain)[:-6], "cut off"),
        "singular": ((good, twins), "does not say where the voxels lie (the affine is singular)"),
        "zero_sform": (gzip.compress(zero_sform), "singular"),
        "nan_sform": (gzip.compress(nan_sform), "singular"),
        "no_dims": (gzip.compress(no_dims), ""),
        "many_dims": (gzip.compress(many_dims), ""),
        "bad_type": (gzip.compress(bad_type), ""),
        "huge": (gzip.compress(huge), "its voxels fill 32767 x 32767 x 32767 mm"),
        "rgb": (rgb, "its voxels are colours"),
        "no_background": (good + np.random.default_rng(1).uniform(1, 9, good.shape), "background is not 0"),
    }


@pytest.mark.parametrize("name", list(images()))
def test_broken_file_is_one_sentence_that_names_it(tmp_path, name, caplog):
    content, words = images()[name]
    path = tmp_path / f"{name}_flair.nii.gz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        put(path, *(content if isinstance(content, tuple) else (content,)))
    before = sorted(tmp_path.iterdir())
    text = sentence(Case.load, path)
    assert str(path) in text
    assert words in text
    assert re.fullmatch(r"Cannot (read|find the brain of) [^\n]+[;:] [^\n]+\.", text)
    assert sorted(tmp_path.iterdir()) == before
    assert words in sentence(Case.from_files, {"t2": path})


def test_cut_off_without_gzip(tmp_path):
    path = put(tmp_path / "a_t1.nii", head())
    path.write_bytes(path.read_bytes()[:-100])
    assert "cut off" in sentence(Case.load, path)
    path.write_bytes(path.read_bytes()[:200])
    sentence(Case.load, path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EOFError("x"), "its data is cut off or damaged; copy or download it again"),
        (zlib.error("x"), "cut off or damaged"),
        (isal_zlib.error("x"), "cut off or damaged"),
        (OSError("Not a gzipped file"), "cut off or damaged"),
        (OSError(5, "Input/output error"), "reading it failed (Input/output error); check the disk"),
        (PermissionError(13, "Permission denied"), "permission is denied; allow reading it"),
        (MemoryError("x"), "it does not fit into memory"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_errors_that_come_with_the_data(tmp_path, monkeypatch, error, words, late):
    class Failing(io.BytesIO):
        def read(self, n=-1):
            if not late:
                raise error
            return super().read(n)

        def readinto(self, buffer):
            raise error

    path = put(tmp_path / "a.nii.gz", head())
    raw = gzip.decompress(path.read_bytes())
    monkeypatch.setattr("mmccd.cases.nifti.igzip.IGzipFile", lambda **kw: Failing(raw))
    assert words in sentence(read_volume, path)


def test_folder_and_missing(tmp_path):
    assert "there is no such file or folder" in sentence(Case.load, tmp_path / "gone")
    assert "there is no such file or folder" in sentence(read_volume, tmp_path / "gone.nii")
    assert "it is a folder" in sentence(read_volume, tmp_path)
    assert "it is a file" in sentence(case_files, put(tmp_path / "a.nii", head()))
    assert "at least one image" in sentence(Case.from_files, {})


def test_message_names_the_path_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "sub/a_t1.nii")
    assert sentence(Case.load, "sub").startswith("Cannot read sub/a_t1.nii: ")


@pytest.mark.parametrize(
    ("shape", "change", "words"),
    [
        ((14, 16, 9), dict(shift=1), "1 mm away"),
        ((14, 16, 8), {}, "shape (14, 16, 8)"),
        ((14, 16, 9), dict(scale=(-1, 1, 1)), "mm away"),
        ((14, 16, 9), dict(scale=(1, 1, 1.1)), "0.8 mm away"),
    ],
)
@pytest.mark.parametrize("role", ["t1", "seg", "brain"])
def test_grids_must_agree(tmp_path, shape, change, words, role):
    affine = BRATS @ np.diag([*change.get("scale", (1, 1, 1)), 1])
    affine[1, 3] += change.get("shift", 0)
    flair = put(tmp_path / "p_flair.nii", head())
    other = put(tmp_path / "other.nii", head(shape) if role == "t1" else (head(shape) > 390).astype(np.uint8), affine)
    files = {"flair": flair} | ({"t1": other} if role == "t1" else {})
    text = sentence(Case.from_files, files, **({} if role == "t1" else {role: other}))
    assert words in text
    assert str(flair) in text
    assert str(other) in text


def test_rounding_of_an_affine_is_no_error(tmp_path):
    files = {
        "flair": put(tmp_path / "p_flair.nii", head()),
        "t1": put(tmp_path / "p_t1.nii", head(), BRATS + np.outer([1e-3, 1e-3, 0, 0], [0, 0, 0, 1])),
    }
    assert Case.from_files(files).id == "p"


@pytest.mark.parametrize("values", [[0, 0.5], [0, -1], [0, 1000], [0, 1 / 255]])
def test_segmentation_must_hold_labels(tmp_path, values):
    seg = put(tmp_path / "s.nii", np.array(values, np.float32).reshape(1, 1, 2))
    assert "not whole labels" in sentence(read_labels, seg)
    assert str(seg) in sentence(read_labels, seg)


def test_segmentation_and_brain_from_files(tmp_path):
    flair, truth = put(tmp_path / "p_flair.nii", head()), np.where(head() > 390, 4, 0)
    seg = put(tmp_path / "s.nii", truth.astype(np.float64) + 1e-5)
    brain = put(tmp_path / "b.nii", (head() > 300).astype(np.uint8))
    case = Case.from_files({"flair": flair}, seg=seg, brain=brain, id="other")
    assert case.id == "other"
    assert case.lesion.dtype == case.brain.dtype == bool
    assert_array_equal(case.lesion, truth > 0)
    assert_array_equal(case.brain, head() > 300)
    nothing = Case.from_files({"flair": flair}, brain=put(tmp_path / "n.nii", truth.astype(np.uint8) * 0))
    assert "brain mask is empty" in sentence(nothing.slices, "flair")
    assert "has no t1, only flair" in sentence(case.slices, "t1")


def test_one_slice_is_a_volume(tmp_path):
    case = Case.load(put(tmp_path / "p_t1.nii.gz", head()[:, :, 4:5]))
    assert case.slices("t1").shape == (1, 1, 16, 14)
    case.save(case.brain, tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").shape == (14, 16, 1)


# ---- brain mask --------------------------------------------------------------------------------------------------


def test_brain_mask_keeps_dark_tissue_even_in_a_slab():
    inside = head((30, 34, 20)) > 0
    v = head((30, 34, 20)).copy()
    v[13:17, 14:20, 8:] = 0  # a ventricle that reaches the upper face
    slab = slice(8, 14)
    assert brain_mask({"flair": v[:, :, slab]})[inside[:, :, slab]].all()
    v[13:17, 14:20, 8:] = -0.5  # small negative values, as interpolation leaves them
    assert_array_equal(brain_mask({"flair": v[:, :, slab]}), inside[:, :, slab])


def test_brain_mask_ignores_specks_and_ringing_and_keeps_lobes():
    v = head((30, 34, 20))
    expected = v > 0
    noisy = v + np.random.default_rng(0).normal(0, 1e-4, v.shape).astype(np.float32)
    noisy[0:2, 0:2, 0:2] = 300
    assert_array_equal(brain_mask({"t1": noisy}), expected)
    lobes = np.zeros((40, 20, 5), np.float32)
    lobes[2:10, 5:15] = 100
    lobes[30:36, 5:15] = 100
    assert_array_equal(brain_mask({"t1": lobes}), lobes > 0)


def test_brain_mask_is_the_union_and_does_not_change_its_input():
    a, b = head(), head()
    a[:7] = 0
    kept = a.copy()
    assert_array_equal(brain_mask({"t1": a, "t2": b}), b > 0)
    assert_array_equal(a, kept)


def test_huge_values_do_not_hide_the_brain():
    v = head((30, 34, 20))
    v[15, 15, 10] = 32767
    assert_array_equal(brain_mask({"t1": v}), head((30, 34, 20)) > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_brain_mask_any_dtype(dtype):
    assert_array_equal(brain_mask({"t1": (head() / 2).astype(dtype)}), head() > 0)


# ---- normalisation -----------------------------------------------------------------------------------------------


def test_a_case_is_normalised_by_the_ruler_asked_for(tmp_path):
    case = Case.from_files({"flair": put(tmp_path / "a_flair.nii.gz", head())})
    for method in METHODS:
        assert_array_equal(
            case.normalised("flair", method), normalise(case.volumes["flair"], case.brain, method, modality="flair")
        )
        assert_array_equal(case.slices("flair", 8, method)[0, 0].numpy(), case.normalised("flair", method)[:, :, 8].T)
    assert_array_equal(case.normalised("flair"), case.normalised("flair", DEFAULT))


# ---- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (head() > 0, "u1"),
        ((head() > 0) * 4, "u1"),
        (head().astype(np.int64), "i4"),
        (head().astype(np.float64), "f4"),
        (-(head() > 0).astype(np.int8), "i4"),
        (torch.from_numpy(head()), "f4"),
    ],
)
def test_stored_type(tmp_path, array, dtype):
    write_nifti(array, Grid(tuple(array.shape), BRATS), tmp_path / "a.nii.gz")
    back = nib.load(tmp_path / "a.nii.gz")
    assert back.get_data_dtype() == np.dtype(dtype)
    assert back.header.get_xyzt_units()[0] == "mm"
    assert_allclose(back.get_fdata(), np.asarray(array), rtol=1e-6)


def test_written_bytes_do_not_depend_on_name_or_time(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(head(), Grid(head().shape, BRATS), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_header_carries_nothing_else(tmp_path):
    image = nib.Nifti1Image(head(), BRATS)
    image.header["descrip"], image.header["cal_max"] = b"Jane Doe, 1970", 4000
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    image.to_filename(tmp_path / "p_t1.nii")
    Case.load(tmp_path / "p_t1.nii").save(head(), tmp_path / "out.nii")
    assert b"Jane" not in (tmp_path / "out.nii").read_bytes()
    assert not nib.load(tmp_path / "out.nii").header["cal_max"]


@pytest.mark.parametrize("step", ["nibabel.Nifti1Image.to_stream", "os.replace"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), PermissionError(13, "Permission denied"), KeyboardInterrupt()]
)
def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch, step, error):
    target, grid = tmp_path / "a.nii.gz", Grid(head().shape, BRATS)
    write_nifti(head(), grid, target)
    before = target.read_bytes()

    def fail(what, file):
        if step != "os.replace":
            file.write(before[:50])
        raise error

    monkeypatch.setattr(step, fail)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            write_nifti(head() + 1, grid, target)
    else:
        assert sentence(write_nifti, head() + 1, grid, target).startswith(f"Cannot write {target}: {error.strerror};")
    assert os.listdir(tmp_path) == ["a.nii.gz"]
    assert target.read_bytes() == before


def test_write_refuses(tmp_path):
    grid = Grid(head().shape, BRATS)
    assert "No such file" in sentence(write_nifti, head(), grid, tmp_path / "gone/a.nii.gz")
    assert "must end in" in sentence(write_nifti, head(), grid, tmp_path / "a.png")
    assert "is not the case's" in sentence(write_nifti, head()[:-1], grid, tmp_path / "a.nii.gz")
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_folder_without_write_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    assert "Permission denied" in sentence(write_nifti, head(), Grid(head().shape, BRATS), folder / "a.nii.gz")
    assert not os.listdir(folder)


# ---- the phantom -------------------------------------------------------------------------------------------------


def test_phantom_without_files():
    v = {m: head(seed=i) for i, m in enumerate(MODALITIES)}
    phantom = SimpleNamespace(
        id="g",
        volumes=v,
        twin={m: a / 2 for m, a in v.items()},
        labels=(head() > 390) * np.uint8(2),
        brain=head() > 0,
        affine=BRATS,
    )
    case, twin = Case.from_phantom(phantom), Case.from_phantom(phantom, twin=True, modalities="t1ce")
    assert list(case.volumes) == list(MODALITIES)
    assert list(twin.volumes) == ["t1ce"]
    assert (case.id, twin.id) == ("g", "g_healthy_twin")
    assert case.lesion.any()
    assert not twin.lesion.any()
    assert twin.lesion.dtype == bool
    assert_array_equal(case.brain, phantom.brain)
    assert_allclose(case.affine, BRATS)
    assert case.lesion_slices(3).dtype == torch.bool


def test_phantom_through_files(tmp_path):
    phantom = make_phantom("ms", seed=3, slices=range(78, 82))
    write_phantom(phantom, tmp_path)
    [(id, path)] = find_cases(tmp_path)
    case, memory = Case.load(path), Case.from_phantom(phantom)
    assert id == case.id == memory.id == phantom.id
    assert_array_equal(case.brain, memory.brain)
    assert_array_equal(case.lesion, memory.lesion)
    assert_allclose(case.affine, memory.affine)
    for m in MODALITIES:
        assert_allclose(case.normalised(m), memory.normalised(m), atol=0.01)
    assert (2 * (case.brain & phantom.brain).sum() / (case.brain.sum() + phantom.brain.sum())) > 0.995


def test_a_folder_that_cannot_be_opened_does_not_stop_the_others(tmp_path, monkeypatch):
    from toy_cases import write_case

    from mmccd.cases.names import find_cases

    for id in ("a", "b", "c"):
        write_case(tmp_path, id)
    real = type(tmp_path).iterdir

    def guarded(self):
        if self.name == "b":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(type(tmp_path), "iterdir", guarded)
    assert [i for i, _ in find_cases(tmp_path)] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="permissions"):
        Case.load(tmp_path / "b")


def test_results_beside_the_cases_are_no_cases(tmp_path):
    "`mmccd evaluate work/out work` must not take the results for a second case of the same name."
    from toy_cases import write_case

    from mmccd.cases.names import find_cases

    case = write_case(tmp_path, "p1")
    out = tmp_path / "out" / "p1"
    out.mkdir(parents=True)
    for name in ("p1_anomaly.nii.gz", "p1_segmentation.nii.gz"):
        (out / name).touch()
    assert [(i, p.name) for i, p in find_cases(tmp_path)] == [("p1", case.name)]
