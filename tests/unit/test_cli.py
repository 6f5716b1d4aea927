"""The command line: help, words that do not fit, JSON, and lines rebuilt from options."""

import pytest
from toy_cases import tree, write_case
from toy_detection import refused

import mmccd
from mmccd.cli.app import arguments
from mmccd.cli.options import put_json, slice_range

pytestmark = pytest.mark.usefixtures("quick_reports")


COMMANDS = ["phantom", "prepare", "train", "detect", "evaluate", "demo", "explore"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run, command):
    code, out, err = run(command, "--help")
    assert f"Example: mmccd {command} " in " ".join(out.split())
    assert "How many of these" not in out
    assert code == 0
    assert not err
    assert "--seed" in out
    assert "--json" in out
    assert f"Usage: mmccd {command}" in out


def test_summaries_are_whole(run):
    for line in run("--help")[1].split("Commands:")[1].splitlines():
        assert "..." not in line
    for kind in ("glioma", "sclerosis", "infarct", "artefact", "healthy subjects"):
        assert kind in run("phantom", "--help")[1]
    assert "No effect" in run("evaluate", "--help")[1]


def test_version_and_no_words(run):
    assert run("--version") == (0, f"mmccd {mmccd.__version__}\n", "")
    code, out, err = run()
    assert code == 0
    assert not err
    assert all(c in out for c in COMMANDS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "--json"], ["a", "--json", "-"]),
        (["--json", "-"], ["--json", "-"]),
        (["--json", "--json", "x"], ["--json", "-", "--json", "x"]),
        (["--debug"], ["--help"]),
        (["a", "--debug", "b"], ["a", "b"]),
    ],
)
def test_arguments(words, expected):
    assert arguments(words) == (expected, "--debug" in words)


@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["nonsense"], "nonsense"),
        (["detect"], "CASE"),
        (["detect", "x"], "--out"),
        (["evaluate", "x"], "TRUTH"),
        (["--nonsense"], "nonsense"),
        (["phantom"], "OUT"),
        (["phantom", "{}", "--glioma", "-1"], "--glioma"),
        (["phantom", "{}", "--glioma", "two"], "--glioma"),
        (["phantom", "{}"], "nothing to make"),
        (["phantom", "{}", "--healthy", "0", "--ms", "0"], "nothing to make"),
        (["phantom", "{}", "--tumour", "1"], "--tumour"),
        (["phantom", "{}", "--ms", "1", "--seed", "-1"], "--seed"),
        (["phantom", "{}", "--ms", "1", "--slices", "90:70"], "90:70"),
        (["phantom", "{}", "--ms", "1", "--slices", "0:155"], "0:155"),
    ],
)
def test_wrong_words(run, tmp_path, words, say):
    refused(run(*(w.format(tmp_path / "new") for w in words)), say)
    assert not (tmp_path / "new").exists()


def test_debug_shows_the_traceback_and_says_2(run, tmp_path):
    code, out, err = run("phantom", tmp_path / "x", "--debug")
    assert code == 2
    assert not out
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("mmccd: nothing to make")


def test_a_bug_gets_a_sentence_too(run, monkeypatch, tmp_path):
    import mmccd.detection.detect

    monkeypatch.setattr(mmccd.detection.detect, "detect_many", lambda *a, **k: {}["oops"])
    refused(run("detect", write_case(tmp_path, "a"), "--out", tmp_path / "out"), "unexpected KeyError", "--debug")


def test_slice_range():
    assert slice_range("") is None
    assert slice_range("70:89") == range(70, 90)
    assert slice_range("0:154") == range(155)
    for bad in ("7", "a:b", "-1:4", "3:2", "1:2:3"):
        with pytest.raises(ValueError, match="FIRST:LAST"):
            slice_range(bad)


def test_json_into_nowhere(run, tmp_path):
    "Noticed before the work."
    case = write_case(tmp_path / "cases", "a")
    assert run("detect", case, "--out", tmp_path / "out")[0] == 0
    for to in (tmp_path / "no/such/file.json", tmp_path):
        refused(run("evaluate", tmp_path / "out", case, "--json", to), to)
        refused(run("detect", case, "--out", tmp_path / "out2", "--json", to), to)
        refused(run("phantom", tmp_path / "out2", "--ms", 1, "--json", to), to)
        refused(run("demo", "--out", tmp_path / "out2", "--json", to), to)
    assert not (tmp_path / "out2").exists()
    with pytest.raises(ValueError, match="not JSON compliant"):
        put_json({"x": float("nan")}, "-")


def test_json_never_lands_on_a_scan(run, tmp_path):
    "`--json` takes the next word for its file, and that may be a case."
    case, other = write_case(tmp_path / "cases", "a"), write_case(tmp_path / "cases", "b")
    before = tree(tmp_path)
    refused(
        run("detect", "--json", case / "a_flair.nii.gz", other, "--out", tmp_path / "out"), "a_flair.nii.gz", ".json"
    )
    assert tree(tmp_path) == before
