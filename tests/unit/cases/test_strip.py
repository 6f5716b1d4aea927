"""Skulls removed through other programs, which scripts stand in for."""

import json
import os
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest
from toy_cases import AFFINE, tree, volumes
from toy_detection import DETECT, refused

from mmccd.cases import strip
from mmccd.cases.case import Case

PROGRAM = """#!{python}
import sys
import nibabel as nib
import numpy as np

words = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write("{name} " + " ".join(words) + "\\n")
if {fails}:
    sys.exit("Traceback ...\\nRuntimeError: no weights")
file = dict(zip(words, words[1:]))
image = nib.load(file["-i"])
v = np.asanyarray(image.dataobj)
brain = (v > 0) & (v < {skull}) & {finds}
nib.save(nib.Nifti1Image(brain.astype(np.uint8), image.affine), file.get("-m", file["-o"][:-7] + "_bet.nii.gz"))
"""
SKULL = 5000


@pytest.fixture
def install(tmp_path, monkeypatch):
    "Install programs that take for brain what is darker than a skull; they return the lines they were called with."
    if os.name != "posix":
        pytest.skip("a script with its interpreter in the first line is no program on Windows")
    programs, log = tmp_path / "bin", tmp_path / "log"
    programs.mkdir()
    log.touch()
    monkeypatch.setattr(strip, "program_path", lambda name: shutil.which(name, path=str(programs)))

    def put(*names, fails=False, finds=True):
        facts = dict(python=sys.executable, log=str(log), skull=SKULL, fails=fails, finds=finds)
        for name in names:
            (programs / name).write_text(PROGRAM.format(name=name, **facts))
            (programs / name).chmod(0o755)
        return lambda: log.read_text().splitlines()

    return put


def write_head(folder, modalities=("flair", "t1"), affines=None):
    "A toy case in its skull; the brain alone."
    folder.mkdir(parents=True)
    images = {}
    for i, m in enumerate(modalities):
        image, labels = volumes(seed=i)
        images[m] = image
        affine = (affines or {}).get(m, AFFINE)
        nib.save(nib.Nifti1Image(np.where(image > 0, image, SKULL + 1), affine), folder / f"{folder.name}_{m}.nii.gz")
    nib.save(nib.Nifti1Image(labels, AFFINE), folder / f"{folder.name}_seg.nii.gz")
    return images


@pytest.mark.parametrize(
    ("programs", "used", "looked_at"),
    [
        (("hd-bet", "deepbet-cli"), "hd-bet", "t1"),
        (("deepbet-cli",), "deepbet-cli", "t1"),
    ],
)
def test_every_modality_is_stripped_by_one_mask(tmp_path, run, install, programs, used, looked_at):
    calls, brains = install(*programs), write_head(tmp_path / "heads" / "a")
    code, out, err = run("strip", tmp_path / "heads", "--out", tmp_path / "brains")
    assert (code, out, err) == (0, f"1 case without skull in {tmp_path / 'brains'}\n", "")
    made = tmp_path / "brains" / "a"
    assert sorted(p.name for p in made.iterdir()) == [*(f"a_{m}.nii.gz" for m in ("flair", "seg", "t1")), "strip.json"]
    for m, brain in brains.items():
        np.testing.assert_array_equal(nib.load(made / f"a_{m}.nii.gz").get_fdata(), brain)
    record = json.loads((made / "strip.json").read_text())
    assert (record["program"], record["looked_at"]) == (used, [looked_at])
    assert [line.split()[0] for line in calls()] == [used]
    case = Case.load(made)
    assert set(case.volumes) == {"flair", "t1"}
    assert case.lesion.any()


def test_a_modality_on_another_grid_gets_a_mask_of_its_own(tmp_path, install):
    moved = AFFINE.copy()
    moved[0, 3] = 9
    calls, brains = install("hd-bet"), write_head(tmp_path / "a", affines={"t1": moved})
    strip.strip_cases(tmp_path / "a", tmp_path / "brains")
    assert len(calls()) == 2
    for m, brain in brains.items():
        np.testing.assert_array_equal(nib.load(tmp_path / "brains" / "a" / f"a_{m}.nii.gz").get_fdata(), brain)


def test_what_is_done_is_kept_and_what_is_other_is_refused(tmp_path, run, install):
    calls = install("hd-bet")
    write_head(tmp_path / "heads" / "a")
    for _ in range(2):
        assert run("strip", tmp_path / "heads", "--out", tmp_path / "brains")[0] == 0
    before = tree(tmp_path / "brains")
    assert len(calls()) == 1
    shutil.rmtree(tmp_path / "heads" / "a")
    write_head(tmp_path / "heads" / "a", ("t1", "t2"))
    refused(run("strip", tmp_path / "heads", "--out", tmp_path / "brains"), "made of other files", "choose another")
    assert tree(tmp_path / "brains") == before


def test_without_a_program_it_says_how_to_get_one(tmp_path, run, install):
    install()
    write_head(tmp_path / "a")
    refused(run("strip", tmp_path / "a", "--out", tmp_path / "o"), "pip install hd-bet", "pip install deepbet")
    install("deepbet-cli")
    write_head(tmp_path / "b", ("t2",))
    code, out, err = run("strip", tmp_path / "b", "--out", tmp_path / "o")
    assert (code, out) == (2, "")
    assert "pip install hd-bet" in err
    assert "deepbet" not in err  # which cannot do it
    assert not any(tmp_path.glob("o/*"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"fails": True}, "hd-bet failed (RuntimeError: no weights)"),
        ({"finds": False}, "hd-bet took 0% of it for brain"),
    ],
)
def test_a_program_that_fails_leaves_nothing(tmp_path, run, install, how, words):
    install("hd-bet", **how)
    write_head(tmp_path / "a")
    refused(run("strip", tmp_path / "a", "--out", tmp_path / "o"), words)
    assert not any(tmp_path.glob("o/*"))


def test_detect_strips_first(tmp_path, run, install, monkeypatch):
    "Into a folder beside the results, which a second run finds again."
    calls = install("hd-bet")
    write_head(tmp_path / "heads" / "a")
    words = (*DETECT, tmp_path / "heads", "--out", tmp_path / "out")
    assert "remove the skull first (mmccd strip)" in run(*words)[2]
    code, out, _ = run(*words, "--strip")
    assert code == 0
    assert out.startswith("a: ")
    stripped = Case.load(tmp_path / "out-stripped" / "a")
    segmentation = nib.load(tmp_path / "out" / "a" / "a_segmentation.nii.gz").get_fdata()
    assert not segmentation[
        ~nib.load(tmp_path / "out-stripped" / "a" / "a_flair.nii.gz").get_fdata().astype(bool)
    ].any()
    assert stripped.brain.mean() < 0.9
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # a folder that is not named
    assert run(*words[:-1], ".", "--strip")[0] == 0
    assert (tmp_path / "here-stripped" / "a").is_dir()
    code, out, _ = run(*words, "--strip", "--skip-existing")
    assert (code, "(kept)" in out, len(calls())) == (0, True, 2)
