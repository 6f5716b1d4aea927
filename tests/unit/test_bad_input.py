"""Bad input through the command line: exit code 2, one sentence that names the file, and nothing left behind."""

import json

import pytest
from bad_cases import KINDS, missing_path, nan, one_sentence, truncated
from toy_cases import tree, write_case
from toy_detection import DETECT

from mmccd.cli.app import main

pytestmark = pytest.mark.usefixtures("quick_reports")


@pytest.fixture(params=KINDS, ids=lambda f: f.__name__)
def bad(request, tmp_path):
    "A case with one thing wrong; the words its sentence must hold."
    case = write_case(tmp_path / "cases", "bad")
    request.param(case)
    name, words = KINDS[request.param]
    return case, (str(case if name == "bad" else case / name), words)


def refused_alone(case, words, tmp_path, capsys, *options):
    before = tree(tmp_path)
    assert main([*DETECT, str(case), *options, "--out", str(tmp_path / "out" / "deep")]) == 2
    out, err = capsys.readouterr()
    one_sentence(err, words)
    assert not out
    assert tree(tmp_path) == before


def test_alone(bad, tmp_path, capsys):
    refused_alone(*bad, tmp_path, capsys)


@pytest.mark.parametrize("weights", ["cycle", "mmccd"])
@pytest.mark.parametrize("bad", [truncated, missing_path], ids=lambda f: f.__name__, indirect=True)
def test_alone_with_networks(bad, weights, tmp_path, capsys):
    refused_alone(*bad, tmp_path, capsys, "--weights", weights)


def test_alone_with_json(bad, tmp_path, capsys):
    "Standard output is JSON, or nothing; the folder that was there before stays, empty."
    (tmp_path / "out").mkdir()
    assert main([*DETECT, str(bad[0]), "--out", str(tmp_path / "out"), "--json"]) == 2
    out, err = capsys.readouterr()
    one_sentence(err, bad[1])
    assert [c["status"] for c in json.loads(out)["cases"]] == ["failed"]
    assert list((tmp_path / "out").iterdir()) == []


def test_among_good_ones(bad, tmp_path, capsys):
    case, words = bad
    good = [write_case(tmp_path / "cases", f"good{i}", seed=i) for i in range(3)]
    paths = [str(p) for p in (good[0], case, *good[1:])]
    assert main([*DETECT, *paths, "--out", str(tmp_path / "out")]) == 2
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
    assert main([*DETECT, str(good), "--out", str(tmp_path / "out")]) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "out"), str(case)]) == 2
    _out, err = capsys.readouterr()
    assert err.startswith("mmccd: ")
    assert err.count("\n") == 1
    assert str(case) in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before


def test_folder_where_every_case_is_bad(tmp_path, capsys):
    for i, kind in enumerate((nan, truncated)):
        case = write_case(tmp_path / "cases", f"x{i}")
        for f in case.iterdir():
            f.rename(case / f.name.replace(f"x{i}", "bad"))
        kind(case)
    before = tree(tmp_path)
    assert main([*DETECT, str(tmp_path / "cases"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert tree(tmp_path) == before


def test_two_cases_of_one_name(tmp_path, capsys):
    a, b = write_case(tmp_path / "one", "same"), write_case(tmp_path / "two", "same")
    assert main([*DETECT, str(a), str(b), "--out", str(tmp_path / "out")]) == 2
    one_sentence(capsys.readouterr().err, [str(a), str(b), "same"])
    assert not (tmp_path / "out").exists()


def test_modality_that_is_not_there(tmp_path, capsys):
    case = write_case(tmp_path, "a")
    assert main([*DETECT, str(case), "--out", str(tmp_path / "out"), "--input", "t1"]) == 2
    one_sentence(capsys.readouterr().err, [str(case), "t1", "flair"])
    assert not (tmp_path / "out").exists()


def test_results_among_the_scans(tmp_path, capsys, monkeypatch):
    write_case(tmp_path, "small")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    for out in ("small", "."):
        assert main([*DETECT, "small", "--out", out]) == 2
        one_sentence(capsys.readouterr().err, ["among the scans of small", "choose another folder"])
    assert tree(tmp_path) == before


def test_output_folder_is_a_file(tmp_path, capsys):
    case, file = write_case(tmp_path, "a"), tmp_path / "file"
    file.write_text("mine")
    assert main([*DETECT, str(case), "--out", str(file)]) == 2
    one_sentence(capsys.readouterr().err, [str(file)])
    assert file.read_text() == "mine"
