"""Many kinds of bad input through the real command line: exit code 2, one sentence that names the file, nothing left behind."""

import json
import os
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from toy_cases import AFFINE, tree, volumes, write_case

from mmccd.cli.app import main


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(array, affine), path)


def four_d(case):
    save(case / "bad_flair.nii.gz", np.stack([volumes()[0]] * 3, -1))


def nan(case):
    image = volumes()[0]
    image[12, 14, 5] = np.nan
    save(case / "bad_flair.nii.gz", image)


def all_zero(case):
    save(case / "bad_flair.nii.gz", np.zeros((24, 28, 10), np.float32))


def affines_differ(case):
    save(case / "bad_seg.nii.gz", volumes()[1], AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3))


def truncated(case):
    file = case / "bad_flair.nii.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty_folder(case):
    for f in case.iterdir():
        f.unlink()


def dicom(case):
    empty_folder(case)
    (case / "IM0001.dcm").write_bytes(b"DICM")


def dangling_link(case):
    (case / "bad_flair.nii.gz").unlink()
    (case / "bad_flair.nii.gz").symlink_to("gone.nii.gz")


def singular(case):
    save(case / "bad_flair.nii.gz", volumes()[0], AFFINE[:, [0, 0, 2, 3]])


def several_patients(case):
    (case / "other_flair.nii.gz").write_bytes((case / "bad_flair.nii.gz").read_bytes())


def text_file(case):
    (case / "bad_flair.nii.gz").write_text("patient, date\n7, yesterday\n")


def missing_path(case):
    empty_folder(case)
    case.rmdir()


KINDS = {
    four_d: ("bad_flair.nii.gz", "4-D"),
    nan: ("bad_flair.nii.gz", "NaN"),
    all_zero: ("bad_flair.nii.gz", "0"),
    affines_differ: ("bad_seg.nii.gz", "affine"),
    truncated: ("bad_flair.nii.gz", "cut off"),
    empty_folder: ("bad", "no NIfTI"),
    text_file: ("bad_flair.nii.gz", "not a NIfTI"),
    missing_path: ("bad", "there is no such"),
    dicom: ("bad", "dcm2niix"),
    dangling_link: ("bad_flair.nii.gz", "there is no such file"),
    singular: ("bad_flair.nii.gz", "where the voxels lie"),
    several_patients: ("bad", "several patients"),
}


@pytest.fixture(params=KINDS, ids=lambda f: f.__name__)
def bad(request, tmp_path):
    "A case with one thing wrong; the words its sentence must hold."
    case = write_case(tmp_path / "cases", "bad")
    request.param(case)
    name, words = KINDS[request.param]
    return case, (str(case if name == "bad" else case / name), words)


def one_sentence(err, words):
    assert err.startswith("mmccd: ") and err.count("\n") == 1 and err.endswith(".\n"), err
    assert "Traceback" not in err
    assert "Error" not in err
    for w in words:
        assert w in err, err


@pytest.mark.parametrize("weights", ["threshold", "cycle", "mmccd"])
def test_alone(bad, weights, tmp_path, capsys):
    case, words = bad
    before = tree(tmp_path)
    assert main(["detect", str(case), "--weights", weights, "--out", str(tmp_path / "out" / "deep")]) == 2
    out, err = capsys.readouterr()
    one_sentence(err, words)
    assert not out
    assert tree(tmp_path) == before


def test_alone_with_json(bad, tmp_path, capsys):
    "Standard output is JSON, or nothing; the folder that was there before stays, empty."
    (tmp_path / "out").mkdir()
    assert main(["detect", str(bad[0]), "--out", str(tmp_path / "out"), "--json"]) == 2
    out, err = capsys.readouterr()
    one_sentence(err, bad[1])
    assert [c["status"] for c in json.loads(out)["cases"]] == ["failed"]
    assert list((tmp_path / "out").iterdir()) == []


def test_among_good_ones(bad, tmp_path, capsys):
    case, words = bad
    good = [write_case(tmp_path / "cases", f"good{i}", seed=i) for i in range(3)]
    paths = [str(p) for p in (good[0], case, *good[1:])]
    assert main(["detect", *paths, "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    one_sentence(err, words)
    assert "3 of 4 cases" in out
    result = json.loads((tmp_path / "out/detect.json").read_text())
    assert {c["id"]: c["status"] for c in result["cases"]} == {
        "bad": "failed",
        "good0": "done",
        "good1": "done",
        "good2": "done",
    }
    record = next(c for c in result["cases"] if c["id"] == "bad")
    assert set(record) == {"id", "status", "error", "seconds"}
    assert "mmccd: " + record["error"] + "\n" == err
    assert all((tmp_path / "out" / f).stat().st_size for c in result["cases"] for f in c.get("files", {}).values())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["detect.json", "good0", "good1", "good2"]


def test_as_truth(bad, tmp_path, capsys):
    "The same trouble on the side of the truth."
    case, _ = bad
    good = write_case(tmp_path / "other", "bad")
    assert main(["detect", str(good), "--out", str(tmp_path / "out")]) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), str(case)]) == 2
    _out, err = capsys.readouterr()
    assert err.startswith("mmccd: ")
    assert err.count("\n") == 1
    assert str(case) in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", [truncated, missing_path, text_file], ids=lambda f: f.__name__)
def test_as_a_process(kind, tmp_path):
    "What a shell sees: warnings of other packages, or a traceback at exit, would show here."
    case = write_case(tmp_path / "cases", "bad")
    kind(case)
    before = tree(tmp_path)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from mmccd.cli import main; sys.exit(main())",
            "detect",
            str(case),
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert not done.stdout
    assert tree(tmp_path) == before
    one_sentence(done.stderr, KINDS[kind][1:])


def test_folder_where_every_case_is_bad(tmp_path, capsys):
    for i, kind in enumerate((nan, truncated)):
        case = write_case(tmp_path / "cases", f"x{i}")
        for f in case.iterdir():
            f.rename(case / f.name.replace(f"x{i}", "bad"))
        kind(case)
    before = tree(tmp_path)
    assert main(["detect", str(tmp_path / "cases"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert tree(tmp_path) == before


def test_two_cases_of_one_name(tmp_path, capsys):
    a, b = write_case(tmp_path / "one", "same"), write_case(tmp_path / "two", "same")
    assert main(["detect", str(a), str(b), "--out", str(tmp_path / "out")]) == 2
    one_sentence(capsys.readouterr().err, [str(a), str(b), "same"])
    assert not (tmp_path / "out").exists()


def test_modality_that_is_not_there(tmp_path, capsys):
    case = write_case(tmp_path, "a")
    assert main(["detect", str(case), "--out", str(tmp_path / "out"), "--input", "t1"]) == 2
    one_sentence(capsys.readouterr().err, [str(case), "t1", "flair"])
    assert not (tmp_path / "out").exists()


def test_name_that_is_no_text(tmp_path):
    "As a process, since a strict standard output is part of the trouble."
    case = write_case(tmp_path / "cases", "good")
    bad = case.rename(case.with_name(os.fsdecode(b"caf\xe9")))
    before = tree(tmp_path)
    for line in (
        ["detect", bad, "--out", tmp_path / "out"],
        ["detect", write_case(tmp_path / "more", "x"), "--out", tmp_path / os.fsdecode(b"\xe9")],
    ):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from mmccd.cli import main; sys.exit(main())", *line],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert not done.stdout
        one_sentence(done.stderr, ["its name has characters that cannot be read; rename it"])
    assert {k: v for k, v in tree(tmp_path).items() if not k.startswith("more")} == before


def test_results_among_the_scans(tmp_path, capsys, monkeypatch):
    case = write_case(tmp_path, "small")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for out in ("small", "."):
        assert main(["detect", "small", "--out", out]) == 2
        one_sentence(capsys.readouterr().err, ["among the scans of small", "choose another folder"])
    assert tree(tmp_path) == before


def test_output_folder_is_a_file(tmp_path, capsys):
    case, file = write_case(tmp_path, "a"), tmp_path / "file"
    file.write_text("mine")
    assert main(["detect", str(case), "--out", str(file)]) == 2
    one_sentence(capsys.readouterr().err, [str(file)])
    assert file.read_text() == "mine"
