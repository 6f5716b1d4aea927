"""The phantom: geometry, physics, truth, twin, files, and the frozen version."""

import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mmccd.anatomy import (
    AFFINE,
    BOX,
    GRID,
    KINDS,
    MODALITIES,
    VERSION,
    Anatomy,
    jacobian,
    sample_deformation,
    smooth_noise,
    stream,
)
from mmccd.cases.phantoms import write_phantom
from mmccd.phantom import make_phantom
from mmccd.scanner import HEALTHY, RELAXATION, mr_signal, null_time

FROZEN = Path(__file__).parent / "phantom_frozen.json"
SLICES = range(76, 80)


@pytest.fixture(scope="module")
def subjects():
    return {k: make_phantom(k, seed=3, index=1, slices=SLICES) for k in KINDS}


@pytest.mark.parametrize("index", range(6))
def test_no_head_folds(index):
    where = (*BOX, range(0, 155))
    where = tuple(range(w.start, w.stop, 2) for w in where)  # every second voxel: the finest warp is 16 mm
    coords = sample_deformation(stream("glioma", 11, index, "deformation"), where)(where)
    assert jacobian(coords).min() > 0


@pytest.mark.parametrize("index", range(8))
def test_no_brain_touches_the_box(index):
    where = (*BOX, range(0, 155, 6))
    brain = Anatomy(partial(stream, "healthy", 5, index), where).brain
    assert not (brain[0].any())
    assert not (brain[-1].any())
    assert not (brain[:, 0].any())
    assert not (brain[:, -1].any())
    assert 1.0e6 < 6 * brain.sum() < 2.0e6  # mm3; BraTS brains hold 1.2 to 1.8 million


def test_slices_70_to_89_lie_where_brats_has_them():
    "Ventricles and deep grey matter are in view, the cerebellum is not: MNI z from 0 to 30 mm."
    where = (*BOX, (70, 89))
    for i in range(5):
        z = sample_deformation(stream("healthy", 0, i, "deformation"), where)(where)[2]
        assert 0 < np.median(z[..., 0]) < 8
        assert 20 < np.median(z[..., 1]) < 30


@pytest.mark.parametrize("spacing", [4, 9, 25, 80])
def test_noise_has_unit_variance_everywhere(spacing):
    where = (range(0, 240, 40), range(0, 240, 40), range(0, 155, 25))
    fields = np.stack([smooth_noise(stream("healthy", s, 0, "test"), spacing, where) for s in range(300)])
    assert abs(fields.var(0).mean() - 1) < 0.05
    assert fields.var(0).max() < 1.7
    assert fields.var(0).min() > 0.5


def test_streams_do_not_share_numbers():
    keys = [(k, s, i, n) for k in KINDS for s in (0, 1) for i in (0, 1) for n in ("gyri", "noise t1 70", "noise t1 71")]
    assert len({stream(*key).integers(2**62) for key in keys}) == len(keys)


def test_the_equations_agree_with_bloch():
    "The recovery of the magnetisation, integrated step by step, ends where the closed form says."
    t1, TR, TE, TI, dt = 1124.0, 9000.0, 110.0, 2400.0, 0.05
    recovered = 0.0
    for _ in range(int(round((TR - TE - TI) / dt))):
        recovered += dt * (1 - recovered) / t1
    m = -recovered
    for _ in range(int(round(TI / dt))):
        m += dt * (1 - m) / t1
    assert abs(abs(m) * 0.86 * np.exp(-TE / 95) - mr_signal(t1, 95.0, 0.86, TR, TE, TI)) < 1e-4


def test_null_time_silences_any_tissue():
    for t1 in (500.0, 884.0, 4163.0):
        assert mr_signal(t1, 100.0, 1.0, 8000.0, 100.0, null_time(t1, 8000.0, 100.0)) < 1e-9


def test_tables_hold_physics():
    for name, rows in RELAXATION.items():
        for t1, t2, pd in rows:
            assert 0 < t2 < t1 and 0 < pd <= 1, name


@pytest.mark.parametrize("kind", KINDS)
def test_subject(subjects, kind):
    p = subjects[kind]
    assert p.id == f"phantom{VERSION}-{kind}-s3-001"
    assert tuple(p.volumes) == MODALITIES
    for v in (*p.volumes.values(), *(p.twin or {}).values()):
        assert v.shape == (*GRID[:2], len(SLICES))
        assert v.dtype == np.float32
        assert ((v > 0) == p.brain).all()
        assert (v == np.rint(v)).all()
        assert v.max() <= 32767
    assert not p.labels[~p.brain].any()
    assert ((p.tissue > 0) == p.brain).all()
    assert p.tissue.max() <= len(HEALTHY)
    assert set(np.unique(p.labels)) <= dict(healthy={0}, glioma={0, 1, 2, 4}, artefact={0, 1, 2}).get(kind, {0, 1})
    np.testing.assert_array_equal(p.affine[:3, 3], AFFINE[:3, 3] + [0, 0, SLICES[0]])


@pytest.mark.parametrize("kind", ["ms", "infarct"])
def test_twin_differs_only_where_the_lesion_is(subjects, kind):
    p = subjects[kind]
    from scipy.ndimage import binary_dilation

    near = binary_dilation(p.labels > 0, iterations=12)
    for m in MODALITIES:
        changed = abs(p.volumes[m] - p.twin[m]) > 0.02 * p.twin[m].max()
        assert changed[p.labels > 0].mean() > 0.5 or m in ("t1", "t1ce")
        assert changed[~near].mean() < 0.002


def test_lesions_are_bright_on_flair_against_the_twin(subjects):
    for kind in ("glioma", "ms", "infarct"):
        p = make_phantom(kind, seed=3, index=2, slices=range(70, 90))
        lesion = np.isin(p.labels, (1, 2)) if kind != "glioma" else p.labels == 2
        assert p.volumes["flair"][lesion].mean() > 1.15 * p.twin["flair"][lesion].mean()


def test_a_slice_does_not_depend_on_its_neighbours(subjects):
    for kind in KINDS:
        one, many = make_phantom(kind, seed=3, index=1, slices=range(78, 79)), subjects[kind]
        for m in MODALITIES:
            np.testing.assert_array_equal(one.volumes[m][..., 0], many.volumes[m][..., 2])
        np.testing.assert_array_equal(one.labels[..., 0], many.labels[..., 2])


def test_slabs_join_to_the_same_voxels():
    whole = make_phantom("glioma", seed=3, index=1, slices=range(50, 90))  # two slabs, the border at 82
    across = make_phantom("glioma", seed=3, index=1, slices=range(80, 84))
    assert whole.slices == range(50, 90)
    assert whole.affine[2, 3] == 50
    for m in MODALITIES:
        np.testing.assert_array_equal(whole.twin[m][..., 30:34], across.twin[m])
    for k in ("labels", "brain", "tissue"):
        np.testing.assert_array_equal(getattr(whole, k)[..., 30:34], getattr(across, k))


def test_the_twin_costs_nothing_else(subjects):
    without = make_phantom("glioma", seed=3, index=1, slices=SLICES, twin=False)
    assert without.twin is None
    for m in MODALITIES:
        np.testing.assert_array_equal(without.volumes[m], subjects["glioma"].volumes[m])


def test_same_seed_same_bytes(tmp_path):
    def digest(folder):
        p = make_phantom("glioma", seed=7, index=0, slices=SLICES)
        case = write_phantom(p, folder)
        return {
            f.relative_to(case).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(case.rglob("*.nii.gz"))
        }

    a, b = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert a == b
    assert len(a) == 10
    assert len(set(a.values())) >= 9  # ten files, and no two alike but by accident of empty labels


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch, subjects):
    import nibabel

    calls = []

    def fail(image, path):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        Path(path).write_bytes(b"x")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_phantom(subjects["ms"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_overwrite_only_when_told(tmp_path, subjects):
    case = write_phantom(subjects["healthy"], tmp_path)
    (case / "drawn").mkdir()
    (case / "drawn" / "mine.txt").write_text("an evening's work")
    with pytest.raises(ValueError, match="exists already"):
        write_phantom(subjects["healthy"], tmp_path)
    assert write_phantom(subjects["healthy"], tmp_path, overwrite=True) == case
    assert [f.name for f in tmp_path.iterdir()] == [case.name]
    assert (case / "drawn" / "mine.txt").read_text() == "an evening's work"
    assert len(list(case.glob("*.nii.gz"))) == 5


def fingerprint():
    "A few numbers of one slice of each kind: change with any change of the phantom, hardly with the machine."
    out = {}
    for kind in KINDS:
        p = make_phantom(kind, seed=0, index=1, slices=range(77, 78))
        out[p.id] = dict(
            brain=int(p.brain.sum()),
            labels=int((p.labels > 0).sum()),
            **{m: round(float(v[p.brain].mean()), 3) for m, v in p.volumes.items()},
        )
    return out


def test_the_default_phantom_is_frozen():
    "Later work never tunes it. Made by `python tests/test_phantom.py` when VERSION changed, and at no other time."
    frozen = json.loads(FROZEN.read_text())
    assert frozen["version"] == VERSION
    for id, now in fingerprint().items():
        for k, v in frozen["subjects"][id].items():
            assert now[k] == pytest.approx(v, rel=1e-3, abs=3 if k in ("brain", "labels") else 0.01), (id, k)


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(dict(version=VERSION, subjects=fingerprint()), indent=1) + "\n")
