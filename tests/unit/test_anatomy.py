"Heads: no folds, inside the box, at the height of BraTS; noise of unit variance; streams of their own."

from functools import partial

import numpy as np
import pytest

from mmccd.anatomy import BOX, KINDS, Anatomy, jacobian, sample_deformation, smooth_noise, stream


@pytest.mark.parametrize("index", range(4))
def test_no_head_folds(index):
    where = (*BOX, range(0, 155))
    where = tuple(range(w.start, w.stop, 3) for w in where)  # every third voxel: the finest warp is 16 mm
    coords = sample_deformation(stream("glioma", 11, index, "deformation"), where)(where)
    assert jacobian(coords).min() > 0


@pytest.mark.parametrize("index", range(4))
def test_no_brain_touches_the_box(index):
    brain = Anatomy(partial(stream, "healthy", 5, index), (*BOX, range(5, 155, 15))).brain
    for side in (brain[0], brain[-1], brain[:, 0], brain[:, -1]):
        assert not side.any()
    assert 1.0e6 < 15 * brain.sum() < 2.0e6  # mm3; BraTS brains hold 1.2 to 1.8 million


def test_slices_70_to_89_lie_where_brats_has_them():
    "Ventricles and deep grey matter are in view, the cerebellum is not: MNI z from 0 to 30 mm."
    where = (*(range(b.start, b.stop, 8) for b in BOX), (70, 89))
    for i in range(5):
        z = sample_deformation(stream("healthy", 0, i, "deformation"), where)(where)[2]
        assert 0 < np.median(z[..., 0]) < 8
        assert 20 < np.median(z[..., 1]) < 30


@pytest.mark.parametrize(("spacing", "n"), [(4, 100), (9, 150), (25, 300), (80, 300)])
def test_noise_has_unit_variance_everywhere(spacing, n):
    where = (range(0, 240, 40), range(0, 240, 40), range(0, 155, 25))
    fields = np.stack([smooth_noise(stream("healthy", s, 0, "test"), spacing, where) for s in range(n)])
    assert abs(fields.var(0).mean() - 1) < 0.05
    assert fields.var(0).max() < 1.7
    assert fields.var(0).min() > 0.5


def test_streams_do_not_share_numbers():
    keys = [(k, s, i, n) for k in KINDS for s in (0, 1) for i in (0, 1) for n in ("gyri", "noise t1 70", "noise t1 71")]
    assert len({stream(*key).integers(2**62) for key in keys}) == len(keys)
