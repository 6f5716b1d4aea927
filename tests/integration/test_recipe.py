"""The README's recipe "Your own data", run line by line on phantoms laid out as patients."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmccd.cli.app import main
from mmccd.detector import Detector

ROOT = Path(__file__).parent.parent


def lines():
    "The commands of the recipe."
    block = re.search(r"## Your own data, step by step.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    return [line for line in block.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The folder in which the recipe was run, and what each command said; training is cut to 20 steps."
    place, said = tmp_path_factory.mktemp("recipe"), {}
    for k, kind in enumerate(["healthy", "healthy", "healthy", "healthy", "glioma"]):
        assert main(["phantom", str(place / "made"), f"--{kind}", "1", "--seed", str(k), "--slices", "70:79"]) in (
            0,
            None,
        )
    (place / "patients").mkdir()
    for k, case in enumerate(sorted((place / "made").iterdir(), key=lambda p: ("glioma" in p.name, p.name))):
        for file in list(case.glob("*.nii.gz")):
            file.rename(case / file.name.replace(case.name, f"P{k}"))
        case.rename(place / "patients" / f"P{k}")
    for line in lines():
        command = (
            line.replace("mmccd ", f"{Path(sys.executable).with_name('mmccd')} ", 1)
            if line.startswith("mmccd ")
            else line
        )
        if line.startswith("mmccd train"):
            command += " --preset smoke --validate-every 20 --val-slices 4"
        run = subprocess.run(command, shell=True, cwd=place, capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
        said[line] = run.stdout + run.stderr
    return place, said


def test_it_trains_on_the_listed_and_detects_in_the_others(done):
    place, _ = done
    assert (place / "train.txt").read_text().split() == ["P0", "P1", "P2"]
    assert (place / "validation.txt").read_text().split() == ["P3"]
    for name in ("own", "own-mmccd", "cycle", "threshold"):
        assert sorted(p.name for p in (place / f"results-{name}").iterdir()) == ["P4", "detect.json"]
        assert (place / f"results-{name}" / "P4" / "P4_anomaly.nii.gz").exists()


def test_the_detectors_are_those_asked_for_and_differ(done):
    _place, said = done
    tables = [text for line, text in said.items() if line.startswith("mmccd evaluate")]
    assert len(tables) == 4
    assert all("Dice (calibrated)" in t and "everything positive" in t for t in tables)
    scores = [re.search(r"\| (CyclicUNet|MMCCD|Threshold) on flair *\|(.*)\|", t).groups() for t in tables]
    assert [s[0] for s in scores] == ["CyclicUNet", "MMCCD", "CyclicUNet", "Threshold"]
    assert len({s[1] for s in scores}) == 4


def test_mmccd_has_the_way_back_of_the_cycle(done):
    place, _ = done
    cycle, mmccd = (Detector.from_pretrained(place / run) for run in ("run", "run-mmccd"))
    back = cycle.translator.nets[cycle.translator.pairs.index(("t2", "flair"))].state_dict()
    assert mmccd.config.frozen_decoder
    assert all(torch.equal(v, back[k]) for k, v in mmccd.g.state_dict().items())
