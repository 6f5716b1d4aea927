"""The command as a shell sees it: processes, signals, what is imported, and what other packages would print."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_cases import KINDS, one_sentence, truncated
from toy_cases import tree, write_case
from toy_detection import DETECT

import mmccd

COMMANDS = ["phantom", "check", "prepare", "train", "detect", "evaluate", "benchmark", "demo", "explore"]
HEAVY = ["torch", "nilearn", "matplotlib", "scipy", "sklearn", "nibabel", "numpy", "huggingface_hub"]


def python(*words):
    "A process of Python: exit code, standard output, standard error."
    done = subprocess.run([sys.executable, *map(os.fspath, words)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_help_imports_nothing_heavy():
    lines = [["--help"], ["--version"], [], *([c, "--help"] for c in COMMANDS)]
    script = f"""
import sys
from mmccd.cli import main
for line in {lines}: assert main(line) == 0
print([m for m in {HEAVY} if m in sys.modules])"""
    code, out, err = python("-c", script)
    assert code == 0, err
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["mmccd", "mmccd.cli"])
def test_as_a_module(module):
    assert python("-m", module, "--version") == (0, f"mmccd {mmccd.__version__}\n", "")
    code, out, err = python("-m", module, "nonsense")
    assert (code, out) == (2, "")
    assert re.fullmatch("mmccd: .*nonsense.*\n", err)


def test_entry_point():
    "The installed command."
    program = Path(sys.executable).with_name("mmccd")
    if not program.exists():
        pytest.skip("mmccd is not installed as a command")
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert done.stdout == f"mmccd {mmccd.__version__}\n"
    assert subprocess.run([program, "nonsense"], capture_output=True).returncode == 2


def test_no_progress_bar_unless_on_a_terminal(tmp_path):
    code, out, err = python("-m", "mmccd", *DETECT, write_case(tmp_path, "a"), "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "a: " in out


def test_ctrl_c(tmp_path):
    "A real signal, sent once the work has begun."
    line = [sys.executable, "-m", "mmccd", "phantom", tmp_path / "out", "--glioma", "5"]
    done = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out").exists() and done.poll() is None:
        time.sleep(0.1)
    time.sleep(1)
    os.kill(done.pid, signal.SIGINT)
    _out, err = done.communicate(timeout=240)
    assert err == "mmccd: stopped\n"
    # a signal in the middle of an import that compiles code ends Python itself by SIGINT: 130 in every shell, too
    assert done.returncode in (130, -signal.SIGINT)
    assert not (tmp_path / "out").exists() or not [p for p in (tmp_path / "out").rglob(".*")]


def test_bad_input(tmp_path):
    "Warnings of other packages, or a traceback at exit, would show here."
    case = write_case(tmp_path / "cases", "bad")
    truncated(case)
    before = tree(tmp_path)
    code, out, err = python("-m", "mmccd", *DETECT, case, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert tree(tmp_path) == before
    one_sentence(err, KINDS[truncated][1:])


def test_name_that_is_no_text(tmp_path):
    "A strict standard output is part of the trouble."
    case = write_case(tmp_path / "cases", "good")
    bad = case.rename(case.with_name(os.fsdecode(b"caf\xe9")))
    before = tree(tmp_path)
    code, out, err = python("-m", "mmccd", *DETECT, bad, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    one_sentence(err, ["its name has characters that cannot be read; rename it"])
    assert tree(tmp_path) == before
