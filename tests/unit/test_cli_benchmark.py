"""`mmccd benchmark`: what it refuses, what `--plan` says, and the command that it records."""

import shlex

import pytest
from toy_detection import refused

import mmccd.benchmark.run
from mmccd.benchmark.plan import ROWS
from mmccd.cli.app import parse


@pytest.mark.parametrize(
    ("words", "say"),
    [
        ("--preset huge", "unknown preset 'huge'"),
        ("--pairs flair-flair", "a pair is two modalities"),
        ("--pairs flair,t2", "got flair"),
        ("--methods gan", f"unknown method 'gan': choose {', '.join(ROWS)}"),
        ("--shipped some", "'some'"),
        ("--store STORE", "--store and --lists belong together"),
        ("--store STORE --lists nowhere", "there is no folder nowhere with lists"),
        ("--test-store STORE", "--test-store goes with --store"),
        ("--jobs 0", "--jobs"),
        ("--device gpu", "'gpu'"),
    ],
)
def test_refuses(run, tmp_path, words, say):
    refused(run("benchmark", *words.split(), "--out", tmp_path / "tables"), say)
    assert not (tmp_path / "tables").exists()


def test_plan_does_nothing(run, tmp_path):
    code, out, err = run("benchmark", "--plan", "--out", tmp_path / "tables", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "train Cyclic U-Net" in out
    assert not (tmp_path / "tables").exists()
    code, out, _ = run("benchmark", "--plan", "--shipped", "only", "--out", tmp_path / "tables", "--device", "cpu")
    assert code == 0
    assert "train" not in out
    assert "measure" in out


def test_the_record_is_the_command(run, tmp_path, monkeypatch):
    "Quotes and device included, so that the line in benchmark.json can be pasted."
    recorded = []

    def stop(plan, jobs, progress, command, scheduler):
        recorded.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.benchmark.run, "run_benchmark", stop)
    out = tmp_path / "my tables"
    code, _, err = run("benchmark", "--out", out, "--methods", "dae,cycle", "--device", "cpu", "--jobs", 2)
    assert (code, err) == (130, "mmccd: stopped; the same command goes on\n")
    assert recorded == [f"mmccd benchmark --preset cpu --out '{out}' --methods dae,cycle --jobs 2 --device cpu"]
    again = parse(shlex.split(recorded[0])[1:])
    assert (again.out, again.device, again.jobs, again.seed) == (out, "cpu", 2, 0)
