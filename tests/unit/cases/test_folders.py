"""Which files make a case, which folders hold cases, and who may be taken as healthy."""

import os
import unicodedata

import nibabel as nib
import numpy as np
import pytest
from toy_cases import AFFINE, volumes, write_case

from mmccd.cases.case import Case
from mmccd.cases.health import check_no_lesion
from mmccd.cases.names import case_id, expand_cases, find_cases, find_files, possible_lesions
from mmccd.cases.prepare import prepare
from mmccd.cases.subjects import subject_of
from mmccd.detection.evaluation import pair_cases
from mmccd.detection.records import read_state


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def ids(path):
    return [id for id, _ in find_cases(path)]


def chosen(folder, modalities):
    return {m: p.name for m, p in find_files(folder, modalities).images.items()}


# ---- the files of a case


def test_only_what_is_asked_for_is_refused(tmp_path):
    touch(tmp_path, "sub-1_FLAIR.nii", "sub-1_run-1_T1w.nii", "sub-1_run-2_T1w.nii", "sub-1_T1w_post.nii")
    assert chosen(tmp_path, "flair") == {"flair": "sub-1_FLAIR.nii"}
    for wanted in ("t1", ["flair", "t1"]):
        with pytest.raises(ValueError, match=r"run-1_T1w\.nii and sub-1_run-2_T1w\.nii both claim .* name the file"):
            find_files(tmp_path, wanted)
    everything = find_files(tmp_path)
    assert list(everything.images) == ["flair"]
    assert everything.notes == ["its t1 is left out, since two files claim to be it"]


@pytest.mark.parametrize(
    ("head", "stripped"),
    [
        ("x_FLAIR", "x_FLAIR_brain"),
        ("x_FLAIR", "x_FLAIR_bet"),
        ("x_FLAIR", "x_desc-brain_FLAIR"),
        ("x_FLAIR_unstripped", "x_FLAIR_stripped"),
        ("sub-1_ses-1_FLAIR", "sub-1_ses-1_space-MNI_desc-brain_FLAIR"),
        ("FLAIR", "FLAIR_hd-bet"),
    ],
)
def test_a_copy_without_skull_wins_and_says_so(tmp_path, head, stripped):
    touch(tmp_path, f"{head}.nii.gz", f"{stripped}.nii.gz", f"{head}_bet_mask.nii.gz")
    files = find_files(tmp_path, "flair")
    assert files.images["flair"].name == f"{stripped}.nii.gz"
    assert files.notes == [f"{stripped}.nii.gz is read, not {head}.nii.gz: it is the one without skull"]
    assert possible_lesions(tmp_path) == []


def test_a_single_head_beside_its_stripped_copy(tmp_path):
    touch(tmp_path, "a_FLAIR.nii.gz", "a_FLAIR_bet.nii.gz", "b_FLAIR.nii.gz")
    [note] = find_files(tmp_path / "a_FLAIR.nii.gz").notes
    assert "a_FLAIR_bet.nii.gz beside it" in note
    assert find_files(tmp_path / "a_FLAIR_bet.nii.gz").notes == find_files(tmp_path / "b_FLAIR.nii.gz").notes == []


def test_the_stripped_copy_of_another_patient_is_not_taken(tmp_path):
    touch(tmp_path, "a_FLAIR.nii", "b_FLAIR_bet.nii")
    with pytest.raises(ValueError, match="several patients"):
        find_files(tmp_path, "flair")


def test_a_doubtful_word_is_named_where_the_image_is_wanted(tmp_path):
    touch(tmp_path, "a_flair.nii", "a_T2_ADC.nii", "a_T1_post.nii")
    assert chosen(tmp_path, None) == {"flair": "a_flair.nii"}
    with pytest.raises(ValueError, match=r"a_T2_ADC\.nii may be another image than plain t2, as its name says adc"):
        find_files(tmp_path, "t2")
    (tmp_path / "a_flair.nii").unlink()
    with pytest.raises(ValueError, match=r"a_T1_post\.nii may be .* says post"):
        find_files(tmp_path)
    assert ids(tmp_path) == [tmp_path.name]  # it does not vanish


def test_a_single_file_of_a_doubtful_name(tmp_path):
    file = touch(tmp_path, "a_T1_post.nii") / "a_T1_post.nii"
    with pytest.raises(ValueError, match=r"another image than plain t1, as its name says post; say which with --input"):
        find_files(file)
    with pytest.raises(ValueError, match="it is one file, t1, not flair"):
        find_files(file, "flair")
    assert find_files(file, "t1ce").notes == ["it is read as t1ce, though its name says post"]
    for name, what in (("a_LesionSeg-T1.nii", "a segmentation"), ("a_T1_bet_mask.nii", "a mask")):
        with pytest.raises(ValueError, match=f"its name says that it is {what}"):
            find_files(touch(tmp_path, name) / name, "t1")


# ---- the cases below a folder


def test_bids_derivatives_are_no_subjects(tmp_path):
    for i in (1, 2):
        touch(
            tmp_path,
            f"sub-{i}/ses-1/anat/sub-{i}_ses-1_FLAIR.nii",
            f"derivatives/bet/sub-{i}/ses-1/anat/sub-{i}_ses-1_desc-brain_FLAIR.nii",
            f"sourcedata/sub-{i}/FLAIR.nii",
            f"code/sub-{i}_FLAIR.nii",
        )
    assert ids(tmp_path) == ["sub-1_ses-1", "sub-2_ses-1"]
    assert ids(tmp_path / "derivatives") == ids(tmp_path / "derivatives/bet") == ids(tmp_path)
    only = touch(tmp_path / "only", "derivatives/sub-1/anat/sub-1_FLAIR.nii")
    with pytest.raises(ValueError, match=r"no NIfTI file outside derivatives, .* name .*only/derivatives"):
        Case.load(find_cases(only)[0][1])


def test_loose_images_above_patients_are_left_out_and_named(tmp_path):
    touch(tmp_path, *(f"p{i}/p{i}_t1.nii" for i in range(3)), "atlas_T1.nii", "scan.nii")
    notes = []
    assert [id for id, _ in find_cases(tmp_path, notes)] == ["p0", "p1", "p2"]
    [note] = notes
    assert "atlas_T1.nii" in note
    assert "scan.nii" not in note
    notes.clear()
    assert find_cases([tmp_path / "p1", tmp_path / "atlas_T1.nii"], notes)[1][0] == "atlas"
    assert notes == []


@pytest.mark.parametrize(
    "files",
    [
        ("P/P_flair.nii", "P/derived/P_flair_n4.nii"),
        ("P/flair.nii", "P/raw/flair.nii", "P/bet/flair_bet.nii"),
        ("P/flair.nii", "P/dti/dwi.nii"),
        ("P/x_flair.nii", "P/screenshots/a.png"),
        ("UCSF-PDGM-0004_nifti/UCSF-PDGM-0004_FLAIR.nii", "UCSF-PDGM-0004_nifti/more/UCSF-PDGM-0004_FLAIR.nii"),
        ("sub-1/anat/sub-1_FLAIR.nii", "sub-1/anat/old/sub-1_FLAIR.nii"),
    ],
)
def test_a_patient_with_other_copies_below_is_one_case(tmp_path, files):
    touch(tmp_path, *files)
    [path] = expand_cases(tmp_path)
    assert path == (tmp_path / files[0]).parent


def test_a_folder_that_says_only_when_takes_the_name_above_it(tmp_path):
    touch(
        tmp_path,
        "Patient-001/week-000-1/T1.nii",
        "Patient-001/week-044/T1.nii",
        "Patient-002/week-044/T1.nii",
        "p/2010-01-31/flair.nii",
        "sub-1/ses-2/sub-1_ses-2_FLAIR.nii",
        "test/flair.nii",
    )
    visits = ["Patient-001_week-000-1", "Patient-001_week-044", "Patient-002_week-044", "p_2010-01-31"]
    assert ids(tmp_path) == [*visits, "sub-1_ses-2", "test"]
    assert [subject_of(id) for id in visits] == ["Patient-001", "Patient-001", "Patient-002", "p"]


def test_a_stripped_derivative_is_pointed_to(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_FLAIR.nii", "derivatives/bet/sub-1/anat/sub-1_desc-brain_FLAIR.nii")
    [note] = find_files(tmp_path / "sub-1/anat", "flair").notes
    assert "derivatives/bet/sub-1/anat/sub-1_desc-brain_FLAIR.nii is the one without skull" in note
    assert find_files(tmp_path / "derivatives/bet/sub-1/anat", "flair").notes == []


def test_links_to_folders_above_end(tmp_path):
    touch(tmp_path, "set/a/a_flair.nii", "set/b/b_flair.nii", "elsewhere/c/c_flair.nii", "elsewhere/d_flair.nii")
    for name, target in {"set/x": ".", "set/y": ".", "set/up": "..", "set/A": "a", "set/0": "../elsewhere/c"}.items():
        os.symlink(target, tmp_path / name)
    assert ids(tmp_path / "set") == ["0", "a", "b"]  # a folder at its own place, and what only a link leads to


@pytest.fixture
def deep(tmp_path):
    "A folder with 1,100 folders in each other, more than Python may call functions in each other."
    start = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(tmp_path)
        yield tmp_path
        while os.path.isdir("d"):  # from above: pytest would go down and find no end
            inner = os.path.isdir("d/d")
            os.rename("d/d", "e") if inner else None
            os.rmdir("d")
            os.rename("e", "d") if inner else None
    finally:
        os.chdir(start)


def test_folders_within_folders_without_end(deep):
    touch(deep, "p/p_flair.nii")
    assert ids(deep) == ["p"]
    with pytest.raises(ValueError, match="holds no NIfTI file"):
        Case.load(deep / "d")


# ---- names in another spelling


def test_results_and_truth_in_two_spellings_are_one_case(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    touch(tmp_path, f"mac/{decomposed}/{decomposed}_flair.nii", f"out/{decomposed}/{decomposed}_anomaly.nii.gz")
    touch(tmp_path, f"linux/{composed}/{composed}_flair.nii")
    assert ids(tmp_path / "mac") == ids(tmp_path / "linux") == [composed]
    out = tmp_path / "out"
    for truth in ("mac", "linux"):
        names, truths = pair_cases(out, tmp_path / truth, read_state(out), only=decomposed)
        assert names == list(truths) == [decomposed]  # as the results are spelled on the disk
        assert truths[decomposed].exists()


def test_names_of_bids_folders(tmp_path):
    touch(tmp_path, "sub-1/anat/sub-1_desc-brain_FLAIR.nii", "sub-2/ses-1/anat/sub-2_ses-1_run-1_FLAIR.nii")
    assert ids(tmp_path) == ["sub-1", "sub-2_ses-1"]
    assert case_id(tmp_path / "sub-1/anat/sub-1_desc-brain_FLAIR.nii") == "sub-1_desc-brain"


LAYOUTS = [  # files of public data sets, and the names of the cases in them
    ("100/wmh.nii.gz 100/pre/FLAIR.nii.gz 101/wmh.nii.gz 101/pre/FLAIR.nii.gz", "100_pre 101_pre"),
    (
        "P1/Preprocessed_Data/FLAIR_preprocessed.nii.gz P1/Raw_Data/3DFLAIR.nii.gz P1/Masks/Consensus.nii.gz",
        "P1_Preprocessed_Data P1_Raw_Data",
    ),
    (
        "t/training01/preprocessed/training01_01_flair_pp.nii t/training01/masks/training01_01_mask1.nii",
        "training01_preprocessed",
    ),
    ("p1/nifti/flair.nii p2/MR/flair.nii p3/mri/T1.nii.gz", "p1 p2 p3"),
    (
        "100307/T1w/T1w_acpc_dc_restore_brain.nii.gz 100408/T1w/T1w_acpc_dc_restore_brain.nii.gz",
        "100307_T1w 100408_T1w",
    ),
    (
        "A/F/2017-06-21_13_23_38.0/S576/ADNI_002_S_0413_MR_Axial_T2-FLAIR_br_raw_20170621_1_S576.nii",
        "002_S_0413_S576",
    ),
    (
        "O_MR_d0129/anat2/NIFTI/sub-O_ses-d0129_T1w.nii.gz O_MR_d0129/anat3/NIFTI/sub-O_ses-d0129_T2w.nii.gz",
        "O_MR_d0129_anat2 O_MR_d0129_anat3",
    ),
    (
        "P1/week-000-1/HD-GLIO-AUTO-segmentation/native/FLAIR_r2s_bet_reg.nii.gz P1/week-000-1/FLAIR.nii.gz",
        "P1_week-000-1",
    ),
]


@pytest.mark.parametrize(("files", "names"), LAYOUTS)
def test_folders_that_say_what_and_not_whose(tmp_path, files, names):
    cases = find_cases(touch(tmp_path, *files.split()))
    assert [id for id, _ in cases] == names.split()
    assert all(find_files(path).images for _, path in cases)
    assert len({subject_of(id) for id, _ in cases}) == len({f.split("/")[0] for f in files.split()})


def test_a_loose_image_above_folders_of_modalities_is_no_case(tmp_path):
    touch(tmp_path, "example_flair.nii", "FLAIR/p1/p1_flair.nii", "T1/p2/p2_t1.nii")
    assert ids(tmp_path) == ["p1", "p2"]


def test_the_truth_of_a_case_lies_in_the_folder_above(tmp_path):
    touch(tmp_path, "100/wmh.nii.gz", "100/pre/FLAIR.nii.gz", "101/pre/FLAIR.nii.gz", "wmh.nii.gz")
    assert find_files(tmp_path / "100/pre").seg == tmp_path / "100/wmh.nii.gz"
    assert find_files(tmp_path / "101/pre").seg is None
    touch(tmp_path, "100/lesion.nii.gz")
    assert find_files(tmp_path / "100/pre").seg is None
    touch(tmp_path, "p/p_flair.nii", "p/p_seg.nii", "p/healthy_twin/p_healthy_twin_flair.nii")
    assert find_files(tmp_path / "p/healthy_twin").seg is None


def test_results_of_detect_are_no_scans(tmp_path):
    touch(tmp_path, "r/a/a_anomaly.nii.gz", "r/a/a_segmentation.nii.gz")
    with pytest.raises(ValueError, match="it holds results of detect, and no scan"):
        find_files(tmp_path / "r")
    with pytest.raises(ValueError, match="a map from detect; name the image instead"):
        find_files(tmp_path / "r/a/a_anomaly.nii.gz", "flair")


# ---- who may be taken as healthy


def put(folder, id, **masks):
    write_case(folder, id, lesion=False)
    (folder / id / f"{id}_seg.nii.gz").unlink()
    for name, mask in masks.items():
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), AFFINE), folder / id / f"{id}_{name}.nii.gz")
    return folder / id


BALL, BRAIN = volumes()[1], volumes(lesion=False)[0] > 0
NEXT_TO_NOTHING = np.zeros_like(BALL)


@pytest.mark.parametrize("name", ["dseg", "roi", "mask", "labels", "LesionSeg-T1", "core", "flair_expert1", "final"])
def test_what_may_be_a_lesion_stops_what_relies_on_health(tmp_path, name):
    path = put(tmp_path, "h", **{name: BALL, "seg_lesion": BALL} if name == "LesionSeg-T1" else {name: BALL})
    case = Case.load(path)
    assert case.lesion is None
    with pytest.raises(ValueError, match=rf"Cannot take h as healthy: .*h_{name}\.nii\.gz may show a lesion"):
        check_no_lesion(case, path)
    with pytest.raises(ValueError, match="Cannot take h as healthy"):
        check_no_lesion(Case.load(path / "h_flair.nii.gz"), path / "h_flair.nii.gz")


@pytest.mark.parametrize(
    "masks",
    [{"mask": BRAIN}, {"labels": BRAIN * 7}, {"roi": NEXT_TO_NOTHING}, {"brain_mask": BALL}, {"label-GM_dseg": BALL}],
)
def test_masks_of_brains_and_empty_ones_are_no_lesion(tmp_path, masks):
    path = put(tmp_path, "h", **masks)
    check_no_lesion(Case.load(path), path)


def test_other_images_beside_it_are_no_lesion(tmp_path):
    path = put(tmp_path, "h")
    noise = np.random.default_rng(0).integers(0, 200, BALL.shape)
    for name, image in (("swi", noise), ("T2_ADC", noise / 7)):
        nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), path / f"h_{name}.nii.gz")
    check_no_lesion(Case.load(path), path)


def test_a_lesion_among_the_derivatives(tmp_path):
    anat = tmp_path / "sub-1/anat"
    write_case(tmp_path, "sub-1").rename(tmp_path / "x")
    anat.mkdir(parents=True)
    (tmp_path / "x/sub-1_flair.nii.gz").rename(anat / "sub-1_FLAIR.nii.gz")
    (tmp_path / "derivatives/manual/sub-1/anat").mkdir(parents=True)
    mask = tmp_path / "derivatives/manual/sub-1/anat/sub-1_label-lesion_mask.nii.gz"
    (tmp_path / "x/sub-1_seg.nii.gz").rename(mask)
    with pytest.raises(ValueError, match="label-lesion_mask"):
        check_no_lesion(Case.load(anat), anat)


@pytest.mark.parametrize(
    ("images", "mask"),
    [
        ("p/pre", "p/wmh.nii.gz"),
        ("p/pre", "p/orig/roi.nii.gz"),
        ("p/pre", "p/Masks/Consensus.nii.gz"),
        ("p", "p/masks/rater1.nii.gz"),
        ("p/anat", "p/seg/lesion.nii.gz"),
        ("rawdata/sub-1/ses-1/anat", "derivatives/sub-1/ses-1/sub-1_ses-1_msk.nii.gz"),
        ("derivatives/smriprep/sub-1/anat", "derivatives/lesions/sub-1/anat/sub-1_label-lesion_roi.nii.gz"),
    ],
)
@pytest.mark.parametrize("step", [1, 2])
def test_a_lesion_elsewhere_among_the_files_of_the_patient(tmp_path, images, mask, step):
    path, file = tmp_path / images, tmp_path / mask
    path.mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volumes(lesion=False)[0], AFFINE), path / "sub-1_flair.nii.gz")
    case = Case.load(path)
    for labels, found in ((BRAIN, False), (BALL, True)):
        grid = AFFINE @ np.diag([step, 1, 1, 1])
        nib.save(nib.Nifti1Image(labels[::step].astype(np.uint8), grid), file)
        if found:
            with pytest.raises(ValueError, match=f"{file.name} may show a lesion"):
                check_no_lesion(case, path)
        else:
            check_no_lesion(case, path)


@pytest.mark.parametrize("name", ["lesion", "x_lesion_prob"])
@pytest.mark.parametrize("single", [False, True])
def test_a_lesion_beside_a_single_file_or_in_shares(tmp_path, name, single):
    touch(tmp_path, "y_lesion.nii")
    nib.save(nib.Nifti1Image(volumes(lesion=False)[0], AFFINE), tmp_path / "x_flair.nii")
    nib.save(nib.Nifti1Image(BALL * np.float32(0.7 if "prob" in name else 1), AFFINE), tmp_path / f"{name}.nii")
    path = tmp_path / "x_flair.nii" if single else tmp_path
    case = Case.from_files({"flair": tmp_path / "x_flair.nii"})
    with pytest.raises(ValueError, match=f"{name}.nii may show a lesion" if single else "may show a lesion"):
        check_no_lesion(case, path)


def test_assume_healthy_fails_the_case_and_not_the_others(tmp_path):
    put(tmp_path / "cases", "ill", roi=BALL)
    put(tmp_path / "cases", "well", mask=BRAIN)
    touch(tmp_path, "cases/atlas_flair.nii.gz")
    result = prepare(tmp_path / "cases", tmp_path / "s.zarr", size=16, min_brain=0, healthy=True, progress=False)
    assert [f["id"] for f in result["failed"]] == ["ill"]
    assert "ill_roi.nii.gz may show a lesion" in result["failed"][0]["error"]
    assert result["cases"] == 1
    assert "atlas_flair.nii.gz" in result["notes"][0]
    unknown = prepare(tmp_path / "cases/ill", tmp_path / "t.zarr", size=16, min_brain=0, progress=False)
    assert unknown["failed"] == []
    assert unknown["unknown"] == unknown["slices"] > 0


def test_channels_of_nnunet_are_not_taken_for_cases(tmp_path):
    files = [tmp_path / f"{id}_{k:04d}.nii.gz" for id in ("BRATS_001", "BRATS_002") for k in range(4)]
    for path in files:
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"BRATS_001_0000 and BRATS_001_0001 .* two modalities of one case"):
        find_cases(files)
    assert len(find_cases(files[::4])) == 2
    patients = [tmp_path / f"patient_{k:04d}.nii.gz" for k in range(4)]  # one name, many people
    for path in patients:
        path.write_bytes(b"")
    assert len(find_cases(patients)) == 4
