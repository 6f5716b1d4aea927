"""The command line: help, words that do not fit, JSON, and lines rebuilt from options."""

import shlex
import sys
from pathlib import Path
from typing import ClassVar, get_args, get_origin, get_type_hints

import pytest
from toy_cases import tree, write_case
from toy_detection import DETECT, refused

import mmccd
from mmccd.aliases import GONE_IN, RENAMED_OPTIONS
from mmccd.cli.app import arguments, command_line, parse
from mmccd.cli.benchmark import BenchmarkOptions
from mmccd.cli.detect import DetectOptions
from mmccd.cli.evaluate import EvaluateOptions
from mmccd.cli.options import Options, put_json, slice_range
from mmccd.cli.phantom import PhantomOptions
from mmccd.cli.prepare import PrepareOptions
from mmccd.cli.train import TrainOptions

pytestmark = pytest.mark.usefixtures("quick_reports")


COMMANDS = [
    "phantom",
    "check",
    "strip",
    "prepare",
    "train",
    "detect",
    "evaluate",
    "benchmark",
    "demo",
    "explore",
    "class-pack",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run, command):
    code, out, err = run(command, "--help")
    assert f"Example: mmccd {command} " in " ".join(out.split())
    assert "How many of these" not in out
    assert code == 0
    assert not err
    assert "--seed" in out or command in ("check", "strip", "class-pack")
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
    refused(run(*DETECT, write_case(tmp_path, "a"), "--out", tmp_path / "out"), "unexpected KeyError", "--debug")


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
    assert run(*DETECT, case, "--out", tmp_path / "out")[0] == 0
    for to in (tmp_path / "no/such/file.json", tmp_path):
        refused(run("evaluate", tmp_path / "out", case, "--json", to), to)
        refused(run(*DETECT, case, "--out", tmp_path / "out2", "--json", to), to)
        refused(run("phantom", tmp_path / "out2", "--ms", 1, "--json", to), to)
        refused(run("demo", "--out", tmp_path / "out2", "--json", to), to)
    assert not (tmp_path / "out2").exists()
    with pytest.raises(ValueError, match="not JSON compliant"):
        put_json({"x": float("nan")}, "-")


@pytest.mark.usefixtures("quick_reports")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("detect.json", None),
        ("a/a_detect.json", None),
        ("mine_detect.json", ""),
        ("train.json", '{"status": "done", "about": {}}'),
        ("config.json", "{}"),
        ("a_flair.json", '{"EchoTime": 0.1, "seed": 1}'),
        ("notes.json", '["mine"]'),
        ("notes.json", "mine"),
        ("deep.json", "[" * 100_000),
        ("benchmark.json", '{"seed": 0, "subjects": {}, "preset": "cpu", "results": []}'),
    ],
)
def test_json_replaces_nothing_but_its_own_earlier_result(run, tmp_path, name, text):
    case, out = write_case(tmp_path / "cases", "a"), tmp_path / "out"
    assert run(*DETECT, case, "--out", out)[0] == 0
    if text is not None:
        (out / name).write_text(text)
    before = tree(tmp_path)
    for line in (
        ("evaluate", out, case),
        (*DETECT, case, "--out", out),
        ("phantom", tmp_path / "p", "--ms", 1),
        ("demo", "--out", tmp_path / "d"),
    ):
        refused(run(*line, "--json", out / name), out / name, f"mmccd {line[0]}")
        assert tree(tmp_path) == before


@pytest.mark.usefixtures("quick_reports")
@pytest.mark.parametrize("there", ["", "{}", "its own"])
def test_json_replaces_its_own_earlier_result(run, tmp_path, there):
    case, out, to = write_case(tmp_path / "cases", "a"), tmp_path / "out", tmp_path / "result.json"
    lines = [
        (*DETECT, case, "--out", out, "--json", to),
        ("evaluate", out, case, "--json", to),
        ("phantom", tmp_path / "p", "--ms", 1, "--slices", "79:80", "--overwrite", "--json", to),
    ]
    for line in lines:
        to.write_text("" if there == "its own" else there)
        for _ in range(1 + (there == "its own")):
            assert run(*line)[0] == 0
            assert to.stat().st_size > 2


def test_json_never_lands_on_a_scan(run, tmp_path):
    "`--json` takes the next word for its file, and that may be a case."
    case, other = write_case(tmp_path / "cases", "a"), write_case(tmp_path / "cases", "b")
    before = tree(tmp_path)
    refused(
        run(*DETECT, "--json", case / "a_flair.nii.gz", other, "--out", tmp_path / "out"), "a_flair.nii.gz", ".json"
    )
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------- lines and options
def options_of(line):
    "What a line that a shell would take means."
    program, *words = shlex.split(line)
    assert program == "mmccd"
    found = parse(arguments(words)[0])
    assert isinstance(found, Options), found
    return found


@pytest.mark.parametrize(
    "line",
    [
        "mmccd phantom 'my cases' --glioma 2 --seed 7 --slices 70:89 --overwrite --json -",
        "mmccd prepare phantom slices.zarr --slices all --healthy 3 --whole-heads --min-brain 2.5",
        "mmccd train mmccd s3://bucket/a.zarr --input flair --target t2 --out 'run; ls' --decoder cycle --lr 0.0005",
        "mmccd train ae a.zarr --input t1 --out run --val 3 --train-list 'a b' --val-list v --resume --device mps",
        "mmccd detect a 'b c' --out out --weights me/mine --healthy h --healthy 'h 2' --median 3 --erode 1.5",
        "mmccd detect --out=-x -- -a",
        "mmccd evaluate out cases --only '*glioma*' --protocol volume --json scores.json",
        "mmccd benchmark --preset smoke --out 'my tables' --methods dae,cycle --jobs 2 --plan --device cuda",
        "mmccd demo",
    ],
)
def test_a_line_means_what_it_meant_once_it_is_rebuilt(line):
    options = options_of(line)
    again = command_line(options)
    assert options_of(again) == options
    assert command_line(options_of(again)) == again


def test_a_rebuilt_line_is_short_and_has_the_device():
    line = "mmccd benchmark --plan --device cpu --seed 0 --preset cpu --sampler fast --out 'my tables'"
    assert command_line(options_of(line)) == "mmccd benchmark --out 'my tables' --plan --device cpu"
    assert (
        command_line(options_of("mmccd benchmark"), ["preset", "out"]) == "mmccd benchmark --preset cpu --out benchmark"
    )


def test_every_option_comes_back():
    "Also those that nobody thought of: each field, with another value than its own."
    others = {bool: True, int: 9, float: 60.5, str: "t2", Path: Path("x y"), list: [Path("a"), Path("b c")]}
    for options in (PhantomOptions, PrepareOptions, TrainOptions, DetectOptions, EvaluateOptions, BenchmarkOptions):
        values = {}
        for name, hint in get_type_hints(options).items():
            if get_origin(hint) is not ClassVar:
                kind = next((k for k in get_args(hint) if type(None) in get_args(hint)), hint)  # of `int | None`
                values[name] = others[get_origin(kind) or kind]
        made = options(**values)
        assert options_of(command_line(made)) == made


RENAMED = [(command, *names) for command, table in RENAMED_OPTIONS.items() for names in table.items()]


@pytest.mark.parametrize(("command", "old", "new"), RENAMED)
def test_an_old_option_works_and_says_how_long(command, old, new, run, capsys):
    words = run(command, "--help")[1]
    assert f" {new} " in words
    assert f"{old} " not in words
    for given in ([old, "x"], [f"{old}=x"]):
        assert arguments([command, *given])[0] == arguments([command, *[w.replace(old, new) for w in given]])[0]
        assert capsys.readouterr().err == f"mmccd: {old} is now called {new}; the old name goes in mmccd {GONE_IN}\n"
    assert arguments(["check", old])[0] == ["check", old]


def test_back_is_now_called_decoder():
    words, _ = arguments(shlex.split("train mmccd s --input t1 --out r --back cycle"))
    assert parse(words).decoder == "cycle"


def test_interrupted_as(run, monkeypatch, tmp_path):
    "What Ctrl-C says is the command's own; on a terminal it stands below the bar."
    import mmccd.cases.prepare

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.cases.prepare, "prepare", pressed)
    line = "prepare", "phantom", tmp_path / "s", "--healthy", 1
    said = "mmccd: stopped; finished cases are kept, the same command goes on\n"
    assert run(*line) == (130, "", said)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(*line) == (130, "", "\n" + said)
