"""A contrast that the packaged weights do not know is named, and no other."""

import nibabel as nib
import numpy as np
import pytest
from toy_cases import write_case

from mmccd.cases.case import Case
from mmccd.cases.oddities import oddities, unfamiliar_contrast
from mmccd.phantom import make_phantom


def with_a_long_tail(v, brain, bright):
    "The same volume; a fifth of the brain lies far from the rest, and a tenth between the two."
    sign = 1 if bright else -1
    rank = (sign * v[brain]).argsort().argsort() / brain.sum()
    low, middle, high = np.percentile(v[brain], [25, 50, 75])
    w = v.copy()
    w[brain] = np.where(rank > 0.7, middle + sign * 1.4 * (high - low), v[brain])
    w[brain] = np.where(rank > 0.8, middle + sign * 8 * (high - low), w[brain])
    return np.where(brain, w + 10 * (high - low), 0).astype(np.float32)  # all of it above 0


@pytest.mark.parametrize("kind", ["healthy", "glioma", "ms"])
def test_phantoms_are_familiar(kind):
    for index in range(3):
        p = make_phantom(kind, 405, index, range(index, 155, 16), twin=False)
        assert unfamiliar_contrast(Case.from_phantom(p, modalities=["flair", "t1", "t2"])) == []


@pytest.mark.parametrize(("modality", "above", "word"), [("flair", False, "darker"), ("t2", True, "brighter")])
def test_a_quarter_that_is_far_from_the_rest(modality, above, word):
    p = make_phantom("healthy", 405, 0, range(0, 155, 16), twin=False)
    case = Case.from_phantom(p, modalities=["flair", "t1", "t2"])
    case.volumes[modality] = with_a_long_tail(case.volumes[modality], case.brain, above)
    (note,) = unfamiliar_contrast(case)
    assert note.startswith(f"{modality}: a quarter of the brain is far {word} than in heads")
    assert note.endswith("set them on healthy cases of that scanner (--healthy)")
    assert note in oddities(case)
    other = "flair" if modality == "t2" else "t2"
    alone = Case.from_phantom(p, modalities=[other])
    assert unfamiliar_contrast(alone) == []


def test_check_and_detect_say_it(tmp_path, run):
    from toy_detection import DETECT

    folder = write_case(tmp_path / "cases", "a", ("flair",))
    image = nib.load(folder / "a_flair.nii.gz")
    v = image.get_fdata()
    nib.save(nib.Nifti1Image(with_a_long_tail(v, v > 0, False), image.affine), folder / "a_flair.nii.gz")
    words = "flair: a quarter of the brain is far darker"
    assert words in run("check", folder)[1]
    assert words in run(*DETECT, folder, "--out", tmp_path / "out")[2]
