"""What the name of one file says, in the ways of public data sets, scanners and hospitals."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmccd.anatomy import MODALITIES
from mmccd.cases.filenames import HARMLESS, OTHER_IMAGES, STRIPPED, read_name
from mmccd.cases.names import split_name


def names(text):
    return [line.split() for line in text.strip().splitlines()]


@pytest.mark.parametrize(
    ("name", "modality"),
    names("""
    UPENN-GBM-00001_11_FLAIR_unstripped flair
    UPENN-GBM-00001_11_T1GD t1ce
    UCSF-PDGM-0004_T1c_bias t1ce
    UCSF-PDGM-0004_FLAIR_bias flair
    IXI012-HH-1211-T1 t1
    VSD.Brain.01.O.MR_T1.70606 t1
    3DFLAIR flair
    3DT1GADO t1ce
    FLAIR_preprocessed flair
    training01_01_flair_pp flair
    PatientID_0003_Timepoint_1_brain_t1c t1ce
    TCGA-02-0003_1997.06.08_flair flair
    sub-OAS30001_ses-d0129_run-01_T1w t1
    sub-01_acq-mprage_run-1_T1w t1
    sub-01_rec-norm_part-mag_T1w t1
    sub-01_ce-none_T1w t1
    T2_TSE_ax_3mm_20200101 t2
    T1_to_SRI_brain t1
    T1CE_to_SRI_brain t1ce
    T1w_MNI152_1mm t1
    T1_n4_brain_mni t1
    t1_pre t1
    t1_pre_contrast t1
    P1_T1_without_contrast t1
    P1_T1_noncontrast t1
    PD_001_T1 t1
    KM_001_T1 t1
    lesion_001_flair flair
    kirby113-02_t1 t1
    P1_T1w_Gd t1ce
    P1_AX_T1_+C t1ce
    P1_T1+C t1ce
    P1_T1_C+ t1ce
    P1_T1_postcontrast t1ce
    P1_T1_PostGAD t1ce
    P1_t1_mprage_KM t1ce
    P1_T1_with_contrast t1ce
    T1_axial_post_contrast_fat_sat t1ce
    T1_nach_KM t1ce
    P1-T1-C t1ce
    P1_T1_C- t1
    P1_T1_-C t1
    sub-01_acq-preContrast_T1w t1
    P_TC_01_flair flair
    P1_GADO_T1 t1ce
    sub-1_acq-postcontrast_T1w t1ce
    sub-1_desc-postgad_T1w t1ce
    sub-1_ce-gadolinium_desc-preproc_T1w t1ce
    """),
)
def test_plain_images(name, modality):
    assert read_name(f"{name}.nii.gz").modality == modality


@pytest.mark.parametrize(
    ("name", "doubt"),
    names("""
    P1_T1_post post
    sub-1_acq-post_T1w post
    GADO_T1 gado
    KM_t1 km
    FLAIR_Gd gd
    sub-1_ce-gd_FLAIR ce-gd
    sub-1_acq-FLAIR_T2w acq-FLAIR
    sub-1_part-phase_T1w part-phase
    sub-1_inv-1_T1w inv-1
    sub-1_echo-2_T2w echo-2
    sub-1_acq-dixon_T1w dixon
    sub-1_desc-lesionfilled_T1w lesionfilled
    12_T1_9_ph ph
    P1_T2_ADC adc
    b0_T2 b0
    p_DIR_FLAIR dir
    p_FLAIR_T2 FLAIR
    P1_T1C_to_T1 T1C
    t1_to_flair t1
    p_t2_star star
    T2_gre gre
    t2_tse_dark-fluid dark
    P1_T1_lesionfilled lesionfilled
    p_t1ce_anomaly anomaly
    P1_T1_smith smith
    P1_T1_e2 e2
    T1_fat fat
    """),
)
def test_words_that_leave_doubt_are_named(name, doubt):
    found = read_name(f"{name}.nii.gz")
    assert found.kind in MODALITIES
    assert found.modality is None
    assert doubt in found.doubt.split(", ")


@pytest.mark.parametrize(
    ("name", "kind"),
    names("""
    sub-01_label-lesion_mask seg
    sub-01_space-T1w_label-lesion_roi seg
    sub-r001s001_ses-1_space-MNI152NLin2009aSym_label-L_desc-T1lesion_mask seg
    UCSF-PDGM-0004_tumor_segmentation seg
    UPENN-GBM-00001_11_segm seg
    PatientID_0003_Timepoint_1_tumorMask seg
    patient01_consensus_gt seg
    x_lesion seg
    wmh seg
    P1_lesion_T1 seg
    1-LesionSeg-Flair seg
    sub-01_dseg label
    x_roi label
    x_mask label
    x_tumor label
    x_core label
    FLAIR_expert1 label
    mask_P1 label
    lesion_P1 seg
    IXI012-HH-1211_labels label
    training01_01_mask1 label
    p_segmentation label
    sub-01_label-lesion_probseg label
    sub-01_desc-brain_mask mask
    sub-01_desc-aseg_dseg mask
    sub-01_label-GM_probseg mask
    sub-01_mod-T1w_defacemask mask
    UCSF-PDGM-0004_brain_parenchyma_segmentation mask
    x_FLAIR_bet_mask mask
    p_T1_brainmask mask
    p_brain_seg mask
    """),
)
def test_masks_of_lesions_of_brains_and_of_who_knows_what(name, kind):
    assert read_name(f"{name}.nii.gz").kind == kind


@pytest.mark.parametrize("word", ["brain", "bet", "hd-bet", "ss", "stripped", "skull-stripped", "synthstrip", "masked"])
def test_words_for_a_head_without_skull(word):
    assert read_name(f"x_FLAIR_{word}.nii.gz").stripped
    assert read_name(f"x_{word}_FLAIR.nii.gz").stripped
    assert read_name("sub-1_desc-brain_T1w.nii.gz").stripped
    assert not read_name("x_FLAIR_unstripped.nii.gz").stripped


def test_the_name_of_the_folder_belongs_to_the_patient(tmp_path):
    for folder, file in (
        ("P1_T1", "P1_T1_flair"),
        ("KM", "KM_flair"),
        ("post-01", "post-01_flair"),
        ("flair", "flair"),
    ):
        assert split_name(tmp_path / folder / f"{file}.nii.gz")[1] == "flair", file
    assert split_name(tmp_path / "KM/KM_t1.nii.gz") == ("KM", "t1")
    assert split_name("P1_T1_flair.nii.gz")[1] is None


ids = st.from_regex(r"[A-Z][a-z]{4,8}[0-9]{0,3}", fullmatch=True)


@given(ids, st.sampled_from(MODALITIES), st.lists(st.sampled_from(sorted(HARMLESS | STRIPPED)), max_size=4))
def test_harmless_words_change_nothing(id, modality, words):
    name = read_name("_".join([id, modality, *words]) + ".nii.gz")
    assert (name.before, name.modality) == (id, modality)
    assert name.stripped == bool(STRIPPED & set(words))


@given(ids, st.sampled_from(MODALITIES), st.sampled_from(sorted(OTHER_IMAGES)), st.booleans())
def test_words_of_other_images_never_pass(id, modality, word, first):
    name = f"{id}_{word}_{modality}" if first else f"{id}_{modality}_{word}"
    assert read_name(f"{name}.nii.gz").modality is None


@given(st.text(min_size=1, max_size=40).filter(lambda s: "/" not in s and "\0" not in s))
def test_any_name_is_read_the_same_composed_and_decomposed(text):
    one, other = (split_name(unicodedata.normalize(form, text) + "_flair.nii.gz") for form in ("NFC", "NFD"))
    assert one == other
