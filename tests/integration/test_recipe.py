"""The recipe of the guide "Train on your data", run line by line on phantoms laid out as patients."""

import contextlib
import io
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from mmccd.cli import main
from mmccd.detector import Detector

pytestmark = pytest.mark.usefixtures("quick_trainings")
ROOT = Path(__file__).resolve().parents[2]
QUICK = "--preset smoke --steps 6 --validate-every 6 --val-slices 2"


def lines():
    "The commands of the recipe."
    guide = json.loads((ROOT / "nbs/guides/train_on_your_data.ipynb").read_text())
    text = "".join("".join(cell["source"]) for cell in guide["cells"])
    block = re.search(r"## All of it, line by line.*?```sh\n(.*?)```", text, re.S)[1]
    return [line for line in block.splitlines() if line and not line.startswith("#")]


def run_line(line):
    "Run a line of the recipe in the current folder; what it prints. `mmccd` runs here: a new process takes seconds."
    if not line.startswith("mmccd "):
        return subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
    if line.startswith("mmccd train"):
        line = f"{line} {QUICK}"
    words = subprocess.run(f"printf '%s\\n' {line}", shell=True, check=True, capture_output=True, text=True).stdout
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(words.splitlines()[1:])
    assert code == 0, f"{line}\n{printed.getvalue()}"
    return printed.getvalue()


def make_patients(place):
    "Four healthy phantoms and one with a glioma, as the patients P0 to P4."
    for seed, kind in enumerate(["healthy"] * 4 + ["glioma"]):
        command = f"phantom {place / 'made'} --{kind} 1 --seed {seed} --slices 74:76"
        assert main(command.split()) == 0
    (place / "patients").mkdir()
    for k, case in enumerate(sorted((place / "made").iterdir(), key=lambda p: ("glioma" in p.name, p.name))):
        for file in list(case.glob("*.nii.gz")):
            file.rename(case / file.name.replace(case.name, f"P{k}"))
        case.rename(place / "patients" / f"P{k}")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The folder in which the recipe was run, and what each line printed."
    place, home = tmp_path_factory.mktemp("recipe"), Path.cwd()
    make_patients(place)
    os.chdir(place)
    try:
        return place, {line: run_line(line) for line in lines()}
    finally:
        os.chdir(home)


def test_it_trains_on_the_listed_and_detects_in_the_others(done):
    place, _ = done
    assert (place / "train.txt").read_text().split() == ["P0", "P1", "P2"]
    assert (place / "validation.txt").read_text().split() == ["P3"]
    for name in ("own", "own-mmccd", "cycle", "threshold"):
        assert sorted(p.name for p in (place / f"results-{name}").iterdir()) == ["P4", "detect.json"]
        assert (place / f"results-{name}" / "P4" / "P4_anomaly.nii.gz").exists()


def test_the_detectors_are_those_asked_for_and_differ(done):
    _place, printed = done
    tables = [text for line, text in printed.items() if line.startswith("mmccd evaluate")]
    assert len(tables) == 4
    assert all("Dice (calibrated)" in t and "everything positive" in t for t in tables)
    scores = [re.search(r"\| (CyclicUNet|MMCCD|Threshold) on flair *\|(.*)\|", t).groups() for t in tables]
    assert [s[0] for s in scores] == ["CyclicUNet", "MMCCD", "CyclicUNet", "Threshold"]
    assert len({s[1] for s in scores}) == 4


def test_mmccd_has_the_decoder_of_the_cycle(done):
    place, _ = done
    cycle, mmccd = (Detector.from_pretrained(place / run) for run in ("run", "run-mmccd"))
    decoder = cycle.translator.nets[cycle.translator.pairs.index(("t2", "flair"))].state_dict()
    assert mmccd.config.frozen_decoder
    assert all(torch.equal(v, decoder[k]) for k, v in mmccd.g.state_dict().items())
