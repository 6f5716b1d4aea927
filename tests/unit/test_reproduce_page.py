'What the page "Reproduce the paper on BraTS2021" says: published numbers, work in numbers, lists of subjects.'

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
from brats_page import PAGE, lines, table_below, table_commands
from torch.utils.flop_counter import FlopCounterMode

import mmccd
from mmccd.benchmark.networks import untrained
from mmccd.benchmark.plan import RECIPES, Plan, split_lists
from mmccd.benchmark.tables import PUBLISHED, PUBLISHED_PAIRS
from mmccd.cases.subjects import read_list, split_from_lists
from mmccd.cli.app import parse
from mmccd.masked_diffusion import load_frozen_decoder
from mmccd.registry import METHODS

SUBJECTS = {"train": 974, "val": 138, "test": 139}


def test_the_page_has_the_lines_that_count():
    "Else following it would prove nothing."
    commands = [line.split()[1] for line in lines() if line.startswith("mmccd ")]
    assert commands == ["prepare", "prepare", "benchmark", "benchmark", "benchmark", "benchmark"]
    assert list(table_commands()) == ["brats-flair-t2", "brats-six-pairs"]
    assert "--pairs" not in table_commands()["brats-six-pairs"]
    needed = ("--lists brats2021", "--device cuda", "--store brats128.zarr", "--test-store brats240.zarr")
    assert all(o in line for o in needed for line in lines() if line.startswith("mmccd benchmark"))
    assert not re.search(r"\bmmccd (?!benchmark|prepare|detect)[a-z]+ --", PAGE)


def test_every_line_is_understood():
    "tests/integration/test_reproduce.py, which is slow, follows them."
    for line in lines():
        if line.startswith("mmccd "):
            assert parse(shlex.split(line)[1:])


def test_the_lists():
    files = split_lists("brats2021")
    names = {p: read_list(files[f"{p}_list"]) for p in SUBJECTS}
    everybody = [n for part in names.values() for n in part]
    assert {p: len(v) for p, v in names.items()} == SUBJECTS
    assert len(set(everybody)) == 1251
    assert all(re.fullmatch(r"BraTS2021_\d{5}", n) for n in everybody)
    assert names == split_from_lists(everybody, **{p: files[f"{p}_list"] for p in SUBJECTS})  # sorted, nobody in two
    for p in SUBJECTS:
        text = Path(files[f"{p}_list"]).read_text()
        assert "arXiv 2308.16150" in text
        assert [line for line in text.splitlines() if line[0] == "#"] == text.splitlines()[:3]
        assert f"({SUBJECTS[p]})" in PAGE


def test_what_the_benchmark_reads_is_in_the_wheel():
    "The lists and the published numbers are met by a pattern of the package data."
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    patterns = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]["package-data"]["mmccd"]
    package = Path(mmccd.__file__).parent
    met = {p for pattern in patterns for p in package.glob(pattern)}
    lists = {p for p in (package / "splits").rglob("*") if p.is_file()}
    assert len(lists) == 3
    assert lists | {package / "benchmark" / "published.json"} <= met


def test_published_numbers():
    said = table_below("What was published")
    assert set(said) == {METHODS[m].title for m in PUBLISHED}
    for m, scores in PUBLISHED.items():
        dice = list(PUBLISHED_PAIRS[m].values()) if m in PUBLISHED_PAIRS else [scores["dice_oracle"]]
        assert said[METHODS[m].title] == [
            f"{scores['auroc']:.4f}",
            *[f"{v:.4f}" for v in dice],
            *[""] * (6 - len(dice)),
        ]


def test_the_hours_follow_from_the_work():
    t, total = RECIPES["gpu"].training, 0
    for name, (gmac, pflop, fast, slow) in table_below("What it takes").items():
        work = float(gmac) * 1e9 * 2 * 3 * t.batch_size * t.steps
        assert float(pflop) == pytest.approx(work / 1e15, abs=0.1)
        assert [float(fast), float(slow)] == [pytest.approx(work / speed / 3600, abs=0.06) for speed in (40e12, 10e12)]
        total += float(gmac) * (name != "all")
    assert total == pytest.approx(float(table_below("What it takes")["all"][0]), abs=0.02)


def test_the_work_is_what_the_networks_do():
    "Counted for one slice of the published size."
    brain = torch.zeros(1, 1, 128, 128, dtype=bool)
    brain[:, :, 20:110, 20:110] = True
    batch = {m: torch.where(brain, 0.0, -1.0) for m in ("flair", "t2")} | {"brain": brain}
    plan = Plan("x", preset="gpu", pairs=(("flair", "t2"),))
    said = {name.split(",")[0]: float(cells[0]) for name, cells in table_below("What it takes").items()}
    nets = {m: untrained(plan, m, {"size": 128, "fov": 240.0, "normalisation": "tukey"}) for m in plan.trained}
    for m in ("mmccd", "mmccd-published"):
        load_frozen_decoder(nets[m], nets["cycle"])
    assert set(said) == {METHODS[m].title for m in nets} | {"all"}
    for m, d in nets.items():
        with FlopCounterMode(display=False) as count, torch.no_grad():
            d.loss(batch, torch.Generator().manual_seed(0))
        assert count.get_total_flops() / 2e9 == pytest.approx(said[METHODS[m].title], abs=0.01), m
