"""`mmccd phantom`."""

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from toy_cases import tree
from toy_detection import refused

from mmccd.cases.phantoms import make_subjects, write_phantom
from mmccd.phantom import phantom_id

SMALL = ["--slices", "79:80"]


def test_phantom_twice_is_identical(run, tmp_path):
    assert run("phantom", tmp_path / "a", "--healthy", 1, "--glioma", 1, "--artefact", 1, "--seed", 7, *SMALL)[0] == 0
    assert run("phantom", tmp_path / "b", "--glioma", 1, "--seed", 7, *SMALL)[0] == 0
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert {n: a[n] for n in b} == b
    assert sum(n.endswith("seg.nii.gz") and "twin" not in n for n in a) == 3
    assert sum("healthy_twin/" in n for n in a) == 2 * 5  # two subjects have something, and so have a twin
    image = nib.load(next((tmp_path / "a").glob("*glioma*/*_flair.nii.gz")))
    assert image.shape == (240, 240, 2)
    assert image.affine[2, 3] == 79


def test_phantom_json_and_ids(run, tmp_path):
    code, out, _err = run("phantom", tmp_path / "a", "--infarct", 2, "--seed", 3, *SMALL, "--json")
    made = json.loads(out)
    assert code == 0
    assert [s["id"] for s in made["subjects"]] == [phantom_id("infarct", 3, i) for i in range(2)]
    assert all(Path(s["folder"]).is_dir() for s in made["subjects"])


def test_phantom_does_not_overwrite_unasked(run, tmp_path):
    assert run("phantom", tmp_path, "--ms", 1, *SMALL)[0] == 0
    seg = next(tmp_path.glob("*/*_seg.nii.gz"))
    seg.write_text("mine")
    before = tree(tmp_path)
    refused(run("phantom", tmp_path, "--healthy", 1, "--ms", 1, *SMALL), "already there", "--overwrite")
    assert tree(tmp_path) == before
    assert run("phantom", tmp_path, "--healthy", 1, *SMALL)[0] == 0  # other subjects may join
    assert run("phantom", tmp_path, "--ms", 1, *SMALL, "--overwrite")[0] == 0
    assert seg.read_bytes() != b"mine"
    assert not [p for p in tmp_path.rglob(".*")]


def test_phantom_into_a_file(run, tmp_path):
    (tmp_path / "f").write_text("mine")
    for out in (tmp_path / "f", tmp_path / "f/below"):
        refused(run("phantom", out, "--ms", 1, *SMALL), "a file is where a folder should be")
    assert (tmp_path / "f").read_text() == "mine"


def test_interrupted_phantom_leaves_nothing(run, tmp_path, monkeypatch):
    import mmccd.cases.phantoms

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.cases.phantoms, "save_nifti", pressed)
    code, _out, err = run("phantom", tmp_path / "new", "--ms", 1, *SMALL)
    assert code == 130
    assert err == "mmccd: stopped\n"
    assert not (tmp_path / "new").exists()


def small_phantom(value):
    volume = np.full((4, 4, 2), value)
    return SimpleNamespace(id="p", volumes={"flair": volume}, twin=None, labels=volume * 0, affine=np.eye(4))


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_wherever_overwriting_is_stopped_the_users_file_is_kept(tmp_path, monkeypatch, how, at):
    write_phantom(small_phantom(1), tmp_path)
    (tmp_path / "p/notes.txt").write_text("mine")
    before, real, renames = tree(tmp_path), os.rename, []

    def rename(source, target):
        real(source, target)
        renames.append(target)
        if len(renames) == at:
            signal.raise_signal(getattr(signal, how))

    if how == "SIGINT":
        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(small_phantom(2), tmp_path, overwrite=True)
        assert os.listdir(tmp_path) == ["p"]
    elif not hasattr(os, "fork"):
        pytest.skip("needs fork")
    else:
        if not (child := os.fork()):
            os.rename = rename
            write_phantom(small_phantom(2), tmp_path, overwrite=True)
        os.waitpid(child, 0)
        assert any(name.startswith(".") for name in os.listdir(tmp_path))
        make_subjects(tmp_path, [], progress=False)  # clears up, whatever it makes
    assert tree(tmp_path)["p/notes.txt"] == b"mine"
    assert (tree(tmp_path) == before) == (at == 1)
    assert os.listdir(tmp_path) == ["p"]


def test_phantom_without_brain(run, tmp_path):
    refused(run("phantom", tmp_path / "new", "--healthy", 1, "--slices", "0:3"), "0:3", "no brain")
    assert not (tmp_path / "new").exists()


def test_phantom_on_a_full_disk(run, tmp_path, monkeypatch):
    import mmccd.cases.phantoms

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mmccd.cases.phantoms, "save_nifti", full)
    refused(
        run("phantom", tmp_path / "new", "--ms", 1, *SMALL),
        f"into {tmp_path / 'new'}: No space left on device; free some space",
    )
    assert not (tmp_path / "new").exists()


def test_make_subjects_from_python(tmp_path):
    made = make_subjects(tmp_path, [("healthy", 4)], seed=2, slices=range(80, 81), progress=False)
    assert made == [
        {"id": phantom_id("healthy", 2, 4), "kind": "healthy", "folder": str(tmp_path / phantom_id("healthy", 2, 4))}
    ]
    assert np.asarray(nib.load(next((tmp_path / made[0]["id"]).glob("*seg*"))).dataobj).sum() == 0
