"""The phantom: images, truth, twin, files, and the frozen version."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mmccd import phantom
from mmccd.anatomy import AFFINE, GRID, KINDS, MODALITIES, VARIED, VERSION
from mmccd.cases.phantoms import write_phantom
from mmccd.phantom import join_slabs, make_phantom, make_slab
from mmccd.scanner import HEALTHY

FROZEN = Path(__file__).parents[1] / "phantom_frozen.json"
SLICES = range(77, 79)


@pytest.fixture(scope="module")
def subjects():
    return {k: make_phantom(k, seed=3, index=1, slices=SLICES) for k in KINDS}


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


@pytest.mark.parametrize("what", [*VARIED, "all"])
def test_a_varied_head_is_another_one(subjects, what):
    "Made of the same streams: its slices do not depend on each other either, and each kind of change is only that."
    varied = VARIED if what == "all" else (what,)
    p = make_phantom("glioma", seed=3, index=1, slices=SLICES, varied=varied)
    usual, alone = subjects["glioma"], make_phantom("glioma", 3, 1, SLICES[1:], varied=varied[::-1])
    assert p.id == alone.id == "-".join([usual.id, *varied])
    assert all((p.volumes[m][:, :, 1:] == alone.volumes[m]).all() for m in MODALITIES)
    assert ((p.tissue == usual.tissue).all(), (p.brain == usual.brain).all()) == ("anatomy" not in varied,) * 2
    assert (p.scanner["settings"] == usual.scanner["settings"]) == ("contrast" not in varied)
    assert ("quality" in p.scanner) == ("image" in varied)
    assert all((p.volumes[m] != usual.volumes[m]).any() for m in MODALITIES)
    for v in (*p.volumes.values(), *p.twin.values()):
        assert ((v > 0) == p.brain).all()


def test_what_cannot_be_varied_is_refused():
    with pytest.raises(ValueError, match="cannot vary age of a phantom; choose from anatomy, contrast, image"):
        make_phantom("healthy", slices=SLICES, varied=("age",))


def test_lesions_are_bright_on_flair_against_the_twin():
    for kind in ("glioma", "ms", "infarct"):
        p = make_slab(kind, seed=3, index=2, slices=range(70, 90, 5))
        lesion = np.isin(p.labels, (1, 2)) if kind != "glioma" else p.labels == 2
        assert p.volumes["flair"][lesion].mean() > 1.15 * p.twin["flair"][lesion].mean()


def test_a_slice_does_not_depend_on_its_neighbours(subjects):
    for kind in KINDS:
        one, many = make_phantom(kind, seed=3, index=1, slices=range(78, 79), twin=False), subjects[kind]
        for m in MODALITIES:
            np.testing.assert_array_equal(one.volumes[m][..., 0], many.volumes[m][..., 1])
        np.testing.assert_array_equal(one.labels[..., 0], many.labels[..., 1])


def test_distant_slices_are_those_of_the_whole_head(subjects):
    few = make_phantom("ms", seed=3, index=1, slices=range(14, 155, 63), twin=False)
    assert few.slices == range(14, 155, 63)
    for m in MODALITIES:
        np.testing.assert_array_equal(few.volumes[m][..., 1], subjects["ms"].volumes[m][..., 0])
    for k in ("labels", "brain", "tissue"):
        np.testing.assert_array_equal(getattr(few, k)[..., 1], getattr(subjects["ms"], k)[..., 0])
    for k, z in enumerate(few.slices):  # the affine says where each slice lies
        np.testing.assert_array_equal(few.affine @ [5, 7, k, 1], AFFINE @ [5, 7, z, 1])


@pytest.mark.parametrize("slices", [range(0), range(9, 3, -1), range(150, 160, 9), range(-1, 9, 5)])
def test_slices_outside_the_grid_or_downwards(slices):
    with pytest.raises(ValueError, match="a range that goes up inside 0 to 154"):
        make_phantom("healthy", slices=slices)


def test_slabs_join_to_the_same_voxels(subjects):
    whole, parts = subjects["glioma"], [make_slab("glioma", 3, 1, range(z, z + 1)) for z in SLICES]
    joined = join_slabs(parts)
    assert joined.slices == SLICES
    assert joined.affine[2, 3] == SLICES[0]
    for m in MODALITIES:
        np.testing.assert_array_equal(joined.volumes[m], whole.volumes[m])
        np.testing.assert_array_equal(joined.twin[m], whole.twin[m])
    for k in ("labels", "brain", "tissue"):
        np.testing.assert_array_equal(getattr(joined, k), getattr(whole, k))


def test_a_head_is_made_a_few_centimetres_at_a_time(monkeypatch):
    made = []
    monkeypatch.setattr(phantom, "make_slab", lambda kind, seed, index, slices, twin, varied: made.append(slices))
    monkeypatch.setattr(phantom, "join_slabs", len)
    assert make_phantom("glioma") == len(made)
    assert [z for slices in made for z in slices] == list(range(155))
    assert max(map(len, made)) <= 32


def test_the_twin_costs_nothing_else(subjects):
    without = make_phantom("glioma", seed=3, index=1, slices=SLICES, twin=False)
    assert without.twin is None
    for m in MODALITIES:
        np.testing.assert_array_equal(without.volumes[m], subjects["glioma"].volumes[m])


def test_same_seed_same_bytes(tmp_path):
    def digest(folder):
        p = make_phantom("glioma", seed=7, index=0, slices=SLICES[:1])
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


def test_overwrite_only_on_request(tmp_path, subjects):
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
    "Later work never tunes it. Made by `python tests/unit/test_phantom.py` when VERSION changed, and at no other time."
    frozen = json.loads(FROZEN.read_text())
    assert frozen["version"] == VERSION
    for id, now in fingerprint().items():
        for k, v in frozen["subjects"][id].items():
            assert now[k] == pytest.approx(v, rel=1e-3, abs=3 if k in ("brain", "labels") else 0.01), (id, k)


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(dict(version=VERSION, subjects=fingerprint()), indent=1) + "\n")
