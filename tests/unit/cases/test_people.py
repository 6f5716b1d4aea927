"""Whose case it is: names of visits, lists of who is who, and what a store remembers of them."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_cases import write_case

from mmccd.cases.people import check_subjects, store_subjects, stored_subjects
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import doubtful_subjects, read_list, read_subjects, split_subjects, subject_of
from mmccd.training.data import check_healthy, data_notes, store_data, subjects_of

TOGETHER = """
    sub-01_ses-1 sub-01_ses-2
    sub-01_ses-1_run-1 sub-01_ses-2_run-2
    sub-01_ses-1_acq-2D sub-01_desc-preproc
    sub-01_T1w sub-01_FLAIR
    ses-1_sub-01 ses-2_sub-01
    siteA_sub-01_ses-1 siteA_sub-01
    UPENN-GBM-00001_11 UPENN-GBM-00001_21
    UCSF-PDGM-0431_nifti UCSF-PDGM-0431_FU001d_nifti
    BraTS-GLI-00005-100 BraTS-GLI-00005-101
    BraTS19_CBICA_AAB_1 BraTS19_CBICA_AAB_2
    OAS30001_MR_d0129 OAS30001_MR_d0757
    OAS1_0001_MR1 OAS1_0001_MR2
    TCGA-02-0003_1997.06.08 TCGA-02-0003_1998.06.08
    002_S_0295_x ADNI_002_S_0295_y
    training01_01 training01_02
    kirby113-01 kirby113-02
    PatientID_0003_Timepoint_1 PatientID_0003_Timepoint_2
    Patient-001_week-000-1 Patient-001_week-044
    100117_time1 100117_time2
    P1_T1 P1_T2
    Ann_V1 Ann_V2
    Ann_baseline Ann_followup2
    P1 P1-FU1
    P1_preop P1_post-op
    P1_20190101 P1_2020-01-31
    20190101_P1 20200131_P1
    P1_m06 P1_m12
    patient_001_1 patient_001_2
    P1_1 P1_2
    P1_a P1_b
    12a 12b
    C01_6months C01_12months
    P1_1st P1_2nd
    p1 p1_healthy_twin
    brats_tcia_pat105_0001 brats_tcia_pat105_0002
    sub-OAS30001_ses-d0129 OAS30001_MR_d0757
    002_S_0413_S576 002_S_0413_S999
    1000012_20252_2_0 1000012_20253_3_0
    NDARINV0A4P0LWM_baselineYear1Arm1 NDARINV0A4P0LWM_2YearFollowUpYArm1
    IXI002-Guys-0828-T1 IXI002-Guys-0828
    ReMIND-001_Preop ReMIND-001_Intraop
    100_pre 100_orig
    P1_Raw_Data P1_Preprocessed_Data
    Ann Ann_bet
    Ann_copy Ann_flipped
"""
APART = """
    sub-01 sub-02
    siteA_sub-01 siteB_sub-01
    BraTS-GLI-00005-100 BraTS-GLI-00006-100
    BraTS2021_00005 BraTS2021_00006
    BraTS20_Training_001 BraTS20_Training_002
    BraTS19_CBICA_AAB_1 BraTS19_CBICA_AAG_1
    BraTS19_TCIA08_105_1 BraTS19_TCIA08_113_1
    Brats18_2013_1_1 Brats18_2013_10_1
    UCSF-PDGM-0431 UCSF-PDGM-0432
    IXI002-Guys-0828 IXI012-HH-1211
    OAS1_0001_MR1 OAS2_0001_MR1
    phantom1-glioma-s0-003 phantom1-glioma-s0-004
    patient_1 patient_2
    site_01_005 site_01_006
    study1_005 study2_005
    study2019_1 study2019_2
    c1_01 c1_02
    2019-01-01 2019-01-02
    visit_1 visit_2
    test_01 test_02
    Wang_Fu Wang_Mo
"""


def pairs(text):
    return [line.split() for line in text.strip().splitlines()]


@pytest.mark.parametrize(("one", "other"), pairs(TOGETHER))
def test_one_person(one, other):
    assert subject_of(one) == subject_of(other)
    assert set(map(bool, split_subjects([one, other, "somebody"], val=1).values())) == {True, False}


@pytest.mark.parametrize(("one", "other"), pairs(APART))
def test_two_persons(one, other):
    assert subject_of(one) != subject_of(other)


def test_doubt_is_said_in_one_line():
    clear = [id for pair in pairs(APART) for id in pair] + ["sub-01_ses-1", "sub-01_ses-2", "P1_baseline", "P1_FU1"]
    assert doubtful_subjects(clear) == []
    [line] = doubtful_subjects([*clear, "patient_001_1", "patient_001_2", "patient_001_3", "007_a", "007_b"])
    assert "007_a and 007_b; patient_001_1 and patient_001_2 and others" in line
    assert "--subjects" in line
    assert doubtful_subjects(["007_a", "007_b"], {"007_a": "Ann", "007_b": "Bob"}) == []


@given(st.lists(st.sampled_from([w for pair in pairs(TOGETHER + APART) for w in pair]), min_size=1), st.integers(0, 9))
def test_a_split_parts_nobody_whatever_the_names(ids, seed):
    subjects = {"P1_T1": "Ann", "patient_1": "Ann", "sub-02": "sub-01"}
    try:
        parts = split_subjects(ids, 1, 1, seed, subjects)
    except ValueError:
        return
    people = [{subject_of(i, subjects) for i in part} for part in parts.values()]
    assert len(set.union(*people)) == sum(map(len, people))


@pytest.mark.parametrize(
    "text",
    [
        "a,Ann\nb,Bob\n",
        "id,person\na,Ann\n\n# not c\nb,Bob",
        "a\tAnn\r\nb\tBob\r\n",
        "case;subject\na; Ann\nb;Bob",
        "a Ann\nb   Bob",
        '"a","Ann"\n"b","Bob"',
    ],
)
def test_lists_of_who_is_who(tmp_path, text):
    (tmp_path / "who").write_text(text)
    assert read_subjects(tmp_path / "who") == {"a": "Ann", "b": "Bob"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a\n", "line 1 does not hold two names"),
        ("a,Ann\nb,\n", "line 2 does not hold two names"),
        ("a,Ann,1\n", "line 1 does not hold two names"),
        ("a,Ann\na,Bob\n", "a belongs to Ann and to Bob"),
        ("# nobody\n", "no name"),
    ],
)
def test_lists_of_who_is_who_that_are_wrong(tmp_path, text, words):
    (tmp_path / "who").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_subjects(tmp_path / "who")


def test_names_of_no_case():
    assert check_subjects({"a": "Ann"}, ["a", "b"], "who.csv") == []
    assert check_subjects({"a": "Ann", "x": "Bob"}, ["a"], "who.csv") == [
        "1 name in who.csv is no case here, such as x"
    ]
    with pytest.raises(ValueError, match=r"none of its 1 name, such as x, is a case; .* such as a"):
        check_subjects({"x": "Bob"}, ["a"], "who.csv")


def test_a_list_of_a_million_names(tmp_path):
    (tmp_path / "l.txt").write_text("\n".join(map(str, range(200_000))))  # quadratic, this would take hours
    assert len(read_list(tmp_path / "l.txt")) == 200_000


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for i, id in enumerate(("ann", "anna", "bob", "cem")):
        write_case(folder / "cases", id, seed=i, lesion=False)
    (folder / "who.csv").write_text("ann,1\nanna,1\n")
    prepare(folder / "cases", folder / "s.zarr", size=16, min_brain=0, subjects=folder / "who.csv", progress=False)
    return folder / "s.zarr"


def test_a_store_remembers_who_is_who(store):
    assert stored_subjects(store) == SliceStore(store).subjects == {"ann": "1", "anna": "1"}
    for seed in range(6):
        data, val = store_data(store, "flair", "", val=1, seed=seed)
        check_healthy(data, val)
        assert ("ann" in data.ids) == ("anna" in data.ids)
        assert len(subjects_of(data)) == 2
    assert data_notes(data, val) == [
        "the threshold rests on 1 validation subject only, and may be far off for others: better take 3 or more "
        "(--val 3)"
    ]


def test_a_list_goes_before_what_the_store_knows(store, tmp_path):
    (tmp_path / "who.csv").write_text("anna,2\nbob,2\nnobody,3\n")
    for seed in range(6):
        data, val = store_data(store, "flair", "", val=1, seed=seed, subjects=tmp_path / "who.csv")
        assert ("bob" in data.ids) == ("anna" in data.ids)
        assert any("nobody" in note for note in data_notes(data, val))
    for name, ids in (("train", "ann\nanna\n"), ("val", "bob\n")):
        (tmp_path / name).write_text(ids)
    with pytest.raises(ValueError, match="2 is in the list for train and in that for val"):
        store_data(
            store, "flair", "", train_list=tmp_path / "train", val_list=tmp_path / "val", subjects=tmp_path / "who.csv"
        )
    assert stored_subjects(store) == {"ann": "1", "anna": "1"}


def test_names_of_a_store_in_another_spelling(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    write_case(tmp_path / "cases", decomposed, lesion=False)
    make = {"size": 16, "min_brain": 0, "progress": False}
    assert prepare(tmp_path / "cases", tmp_path / "s.zarr", **make)["new"] == 1
    store = SliceStore(tmp_path / "s.zarr")
    assert store.ids == store.dataset(decomposed).ids == [composed]
    write_case(tmp_path / "cases", "bob", seed=1, lesion=False)
    for part, name in (("train", decomposed), ("val", "bob")):
        (tmp_path / part).write_text(name)
    prepare(tmp_path / "cases", tmp_path / "s.zarr", **make)
    data, val = store_data(tmp_path / "s.zarr", "flair", "", train_list=tmp_path / "train", val_list=tmp_path / "val")
    assert (data.ids, val.ids) == ([composed], ["bob"])


def test_a_damaged_record_of_who_is_who_is_named(store, tmp_path):
    copy = tmp_path / "s.zarr"
    copy.mkdir()
    (copy / "subjects.json").write_text(json.dumps({"subjects": {"ann": "7"}, "sha256": "0"}))
    with pytest.raises(ValueError, match=r"subjects\.json is damaged"):
        stored_subjects(copy)
    (copy / "subjects.json").unlink()
    store_subjects(copy, {"ann": "7"})
    store_subjects(copy, {"ann": "8", "bob": "9"})
    assert stored_subjects(copy) == {"ann": "8", "bob": "9"}


def test_a_copy_under_another_name_is_the_same_person(tmp_path):
    for id, seed in (("Ann", 1), ("Bob", 2), ("copy of Ann's", 1)):
        write_case(tmp_path / "cases", id, seed=seed, lesion=False)
    prepare(tmp_path / "cases", tmp_path / "s", size=16, min_brain=0, progress=False)
    store = SliceStore(tmp_path / "s")
    assert store.subjects == {"copy of Ann's": "Ann"}
    assert subject_of("copy of Ann's", store.subjects) == "Ann"
    store_subjects(tmp_path / "s", {"copy of Ann's": "Eve"})
    assert SliceStore(tmp_path / "s").subjects == {"copy of Ann's": "Eve"}
