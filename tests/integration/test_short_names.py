"""The short name `cycle` stands for the target through which less of a lesion is copied."""

import numpy as np
import pytest
import torch

from mmccd.cases.case import Case
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
from mmccd.registry import METHODS
from mmccd.slices import resize, resize_labels, to_slices


@pytest.fixture(scope="module")
def glioma():
    "The patient of chapter 09, who is no part of the evidence."
    return make_phantom("glioma", 404, 0, range(78, 81))


@pytest.mark.parametrize(("modality", "target"), [("flair", "t1"), ("t2", "t1"), ("t1", "flair")])
def test_cycle_is_short_for_the_one_that_copies_less(glioma, modality, target):
    p, brain = glioma, to_slices(glioma.brain)
    normalised = Case.from_phantom(p, modalities=[modality]).normalised(modality)
    a, b = np.polyfit(p.volumes[modality][p.brain], normalised[p.brain], 1)
    ill, well = (
        resize(to_slices(np.where(p.brain, a * v[modality] + b, -1).astype(np.float32)), 64)
        for v in (p.volumes, p.twin)
    )
    brain, lesion = (resize_labels(to_slices(m), 64) for m in (p.brain, p.labels > 0))

    def share(d):
        "How much of the lesion comes back."
        with torch.no_grad():
            out = [d.translate_back(d.translate(x, brain), brain)[lesion] for x in (ill, well)]
        return (((out[0] - out[1]) * (ill - well)[lesion]).sum() / ((ill - well)[lesion] ** 2).sum()).item()

    shares = {t: share(load_detector(f"cycle-{modality}-{t}")) for t in ("flair", "t1", "t2") if t != modality}
    assert METHODS["cycle"].packaged[modality] == min(shares, key=shares.get) == target
