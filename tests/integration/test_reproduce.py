"""The page "Reproduce the paper on BraTS2021", run line by line on twelve phantoms laid out as BraTS2021, and the published lists."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import mmccd
from mmccd.benchmark.dataset import calibration_slices, subject_split
from mmccd.benchmark.measure import Entry, detector_of, maps, untrained
from mmccd.benchmark.plan import RECIPES, WAYS, Plan, ScanSource, split_lists
from mmccd.benchmark.run import FIGURES, FILES
from mmccd.benchmark.tables import HEADINGS, PUBLISHED, PUBLISHED_PAIRS
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import read_list, split_from_lists
from mmccd.cli.app import main
from mmccd.detector import healthy_threshold
from mmccd.masked_diffusion import load_frozen_decoder
from mmccd.registry import METHODS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "nbs/reproduce_brats2021.md").read_text()
INSTALL = ("git clone ", "python3 -m venv ", ". ", "pip install ", "python -c ")
SMALL = {
    "--preset gpu": "--preset smoke",
    "--lists brats2021": "--lists lists",
    "--device cuda": "--device cpu",
    "--size 128": "--size 32",
    "--size 240": "--size 64",
}
PARTS = {"train": 7, "val": 2, "test": 3}


def lines():
    "The commands of the page, without those that install."
    found = [l for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for l in block.splitlines()]
    return [l for l in found if not l.startswith(INSTALL)]


def run(line, place):
    "One line of the page, with small sizes; what it said."
    for old, new in SMALL.items():
        line = line.replace(old, new)
    done = subprocess.run(
        re.sub(r"^mmccd ", f"{Path(sys.executable).with_name('mmccd')} ", line),
        shell=True,
        cwd=place,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def lay_out(place):
    "Twelve phantoms as BraTS2021; healthy and ill in each part, as no list knows who is what."
    assert main(
        ["phantom", str(place / "made"), "--healthy", "6", "--glioma", "6", "--seed", "5", "--slices", "74:78"]
    ) in (0, None)
    healthy, ill = (sorted((place / "made").glob(f"*-{kind}-*")) for kind in ("healthy", "glioma"))
    parts = {"train": healthy[:4] + ill[:3], "val": healthy[4:5] + ill[3:4], "test": healthy[5:] + ill[4:]}
    (place / "lists").mkdir()
    for k, (part, case) in enumerate((p, c) for p, cases in parts.items() for c in cases):
        new = place / "BraTS2021" / f"BraTS2021_{k:05}"
        new.mkdir(parents=True)
        for file in case.glob("*.nii.gz"):
            file.rename(new / file.name.replace(case.name, new.name))
        with (place / "lists" / f"{part}.txt").open("a") as f:
            f.write(f"{new.name}\n")
    shutil.rmtree(place / "made")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    "The folder in which the page was followed, and what each line said."
    place = tmp_path_factory.mktemp("reproduce")
    lay_out(place)
    return place, {line: run(line, place) for line in lines()}


def tables():
    return {re.search(r"--out (\S+)", l)[1]: l for l in lines() if "--preset gpu" in l and "--out" in l}


def result(place, out):
    return json.loads((place / out / FILES["json"]).read_text())


def listed(place, part):
    return read_list(place / "lists" / f"{part}.txt")


# ------------------------------------------------------------------------------------------------- the page, followed
def test_the_page_has_the_lines_that_count():
    "Else nothing below would say anything; and whoever adds a line that the test does not replace must see it."
    assert [l.split()[1] for l in lines() if l.startswith("mmccd ")] == [
        "prepare",
        "prepare",
        "benchmark",
        "benchmark",
        "benchmark",
        "benchmark",
    ]
    assert list(tables()) == ["brats-flair-t2", "brats-six-pairs"]
    assert "--pairs" not in tables()["brats-six-pairs"]
    assert all(old in " ".join(lines()) for old in SMALL)
    assert all(
        "--lists brats2021" in l and "--device cuda" in l and "--test-store brats240.zarr" in l
        for l in lines()
        if l.startswith("mmccd benchmark")
    )
    assert not re.search(r"\bmmccd (?!benchmark|prepare|detect)[a-z]+ --", PAGE)


@pytest.mark.parametrize("out", tables())
def test_everything_is_there(done, out):
    place, said = done
    assert int(said["ls BraTS2021 | wc -l"]) == sum(PARTS.values())
    assert all((place / out / name).stat().st_size > 500 for name in [*FILES.values(), *(f"{f}.png" for f in FIGURES)])
    assert said[f"cat {out}/tables.md"] == (place / out / "tables.md").read_text()
    assert result(place, out)["command"].startswith("mmccd benchmark --preset smoke")


def test_the_stores_are_of_two_sizes(done):
    place, _ = done
    for name, size in (("brats128", 32), ("brats240", 64)):
        store = SliceStore(place / f"{name}.zarr")
        assert store.recipe["size"] == size
        assert len(store.ids) == 12
        assert all(r.place in range(74, 79) for r in store.table)


def test_the_plan_does_nothing(done):
    place, said = done
    plan = next(text for line, text in said.items() if "--plan" in line)
    assert all(METHODS[m].title in plan for m in ("ae", "vae", "dae", "ddpm", "cycle", "mmccd"))
    assert "3 subjects" in plan
    assert not (place / "benchmark").exists()


@pytest.mark.parametrize("out", tables())
def test_who_learns_is_not_tested(done, out):
    place, _ = done
    found, parts = result(place, out), {p: set(listed(place, p)) for p in PARTS}
    tested = {r[0] for r in found["subjects"]["rows"]}
    assert {p: len(v) for p, v in parts.items()} == PARTS
    assert tested | set(found["subjects"]["left_out"]) == parts["test"]
    assert not found["subjects"]["healthy"]
    assert len(tested) == 2
    assert len(found["subjects"]["left_out"]) == 1
    learned = [json.loads((r / "train.json").read_text())["about"] for r in sorted((place / out / "runs").iterdir())]
    assert len(learned) == 6
    for about in learned:
        assert len(about["data"]["ids"]) == 4
        assert set(about["data"]["ids"]) <= parts["train"]
        assert len(about["validation"]["ids"]) == 1
        assert set(about["validation"]["ids"]) <= parts["val"]
        assert all(about[k]["recipe"]["chosen"]["tumour_free"] for k in ("data", "validation"))


def test_thresholds_rest_on_validation_subjects(done):
    "Calibrated again on these, the plain threshold is the same; on the subjects to learn from it is another."
    place, _ = done
    found = result(place, "brats-flair-t2")
    scans = ScanSource(
        str(place / "brats128.zarr"), *(str(place / "lists" / f"{p}.txt") for p in PARTS), str(place / "brats240.zarr")
    )
    plan = Plan(place / "x", preset="smoke", pairs=(("flair", "t2"),), scans=scans)
    assert subject_split(plan)["calibrate"] == listed(place, "val")
    assert found["data"]["calibrate"] == calibration_slices(plan)[1]
    other = replace(plan, scans=replace(scans, val_list=scans.train_list, train_list=scans.val_list))

    def level(plan):
        batch = calibration_slices(plan)[0]
        return healthy_threshold(
            maps(detector_of(plan, Entry("threshold-flair", "threshold", "flair", None, False)), batch, 0)[
                batch["brain"]
            ],
            RECIPES["smoke"].fpr,
        )

    said = found["scores"]["threshold-flair"]["threshold"]
    assert level(plan) == pytest.approx(said, rel=1e-4)
    assert level(other) != pytest.approx(said, rel=0.02)


def row(text, name):
    "Cells of the first line of a table that begins so."
    return [c.strip() for c in re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.M)[1].split("|")]


def test_table_one(done):
    "Ours, the published line in grey under it, and the two rows below which nothing may fall."
    place, _ = done
    table, scores = (
        (place / "brats-flair-t2/tables.md").read_text().split("\n\n")[1],
        result(place, "brats-flair-t2")["scores"],
    )
    names = re.findall(r"^\| (.*?) \|", table, re.M)[2:]
    grey = '<span style="color:gray">(published)</span>'
    assert names[:2] == ["everything positive", "threshold"]
    for m in PUBLISHED:
        at = names.index(METHODS[m].title)
        assert names[at + 1] == grey
        assert f"{METHODS[m].title}, shipped weights" in names
        theirs = table.splitlines()[at + 3]
        assert all(
            f'<span style="color:gray">({PUBLISHED[m][HEADINGS.index(k)]:.2f})</span>' in theirs
            for k in ("auroc", "dice_oracle", "recall_oracle")
        )
        key = next(k for k, e in scores.items() if e["method"] == m and not e["shipped"])
        assert row(table, METHODS[m].title)[0].startswith(
            f"{scores[key]['kinds']['patient']['summary']['ap']['mean']:.2f} "
        )
    assert names.count(grey) == 6
    assert sum("shipped" in n for n in names) == 6


def test_table_two(done):
    place, _ = done
    text = (place / "brats-six-pairs/tables.md").read_text()
    oracle = text[text.index("Dice at the oracle threshold") :]
    assert all(
        len(row(oracle, METHODS[m].title)) == 6 for m in ("everything", "threshold", "dae", "ddpm", "cycle", "mmccd")
    )
    for m, said in PUBLISHED_PAIRS.items():
        assert re.findall(r"\((.*?)\)", " ".join(row(oracle, METHODS[m].title))) == [
            f"{said['-'.join(w)]:.2f}" for w in WAYS
        ]


def test_the_same_line_again_trains_nothing(done):
    place, out = done[0], "brats-flair-t2"

    def kept():
        return {
            str(p): (p.stat().st_mtime_ns, p.stat().st_size)
            for part in ("runs", "scores")
            for p in (place / out / part).rglob("*")
            if p.is_file() and p.name != ".lock"
        }

    before, first = kept(), result(place, out)
    (place / out / FILES["markdown"]).unlink()
    run(tables()[out], place)
    again = result(place, out)
    assert kept() == before
    assert (place / out / FILES["markdown"]).exists()
    assert len(before) > 40
    assert {k: e["fingerprint"] for k, e in again["scores"].items()} == {
        k: e["fingerprint"] for k, e in first["scores"].items()
    }
    assert again["networks"] == first["networks"]
    assert again["scores"] == first["scores"]


# ------------------------------------------------------------------------------------------------- the published lists
def test_the_lists():
    files = split_lists("brats2021")
    names = {p: read_list(files[f"{p}_list"]) for p in PARTS}
    everybody = sum(names.values(), [])
    assert {p: len(v) for p, v in names.items()} == {"train": 974, "val": 138, "test": 139}
    assert len(set(everybody)) == 1251
    assert all(re.fullmatch(r"BraTS2021_\d{5}", n) for n in everybody)
    assert names == split_from_lists(everybody, **{p: files[f"{p}_list"] for p in PARTS})  # sorted, and nobody in two
    for p in PARTS:
        assert "arXiv 2308.16150" in (text := Path(files[f"{p}_list"]).read_text())
        assert [l for l in text.splitlines() if l[0] == "#"] == text.splitlines()[:3]


def test_the_lists_are_in_the_wheel():
    "Each file below mmccd/splits is met by a pattern of the package data."
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mmccd"]
    package = Path(mmccd.__file__).parent
    met = {p for pattern in patterns for p in package.glob(pattern)}
    there = {p for p in (package / "splits").rglob("*") if p.is_file()}
    assert len(there) == 3
    assert there <= met


# ------------------------------------------------------------------------------------------------- what the page says
def cells(heading):
    "The first table below a heading, without its two top lines, by the first column."
    table = re.search(rf"^## {heading}$.*?^((?:\|[^\n]*\n)+)", PAGE, re.M | re.S)[1]
    return {c[0]: c[1:] for c in ([c.strip() for c in l.strip("|").split("|")] for l in table.splitlines()[2:])}


def test_published_numbers():
    said = cells("What was published")
    assert set(said) == {METHODS[m].title for m in PUBLISHED}
    for m, p in PUBLISHED.items():
        pairs = (
            [f"{v:.4f}" for v in PUBLISHED_PAIRS[m].values()] if m in PUBLISHED_PAIRS else [f"{p[0]:.4f}"] + [""] * 5
        )
        assert said[METHODS[m].title] == [f"{p[HEADINGS.index('auroc')]:.4f}", *pairs]
        assert pairs[0] == f"{p[0]:.4f}"


def test_the_hours_follow_from_the_work():
    t, total = RECIPES["gpu"].training, 0
    for name, (gmac, pflop, fast, slow) in cells("What it takes").items():
        work = float(gmac) * 1e9 * 2 * 3 * t.batch_size * t.steps
        assert float(pflop) == pytest.approx(work / 1e15, abs=0.1)
        assert [float(fast), float(slow)] == [pytest.approx(work / speed / 3600, abs=0.06) for speed in (40e12, 10e12)]
        total += float(gmac) * (name != "all")
    assert total == pytest.approx(float(cells("What it takes")["all"][0]), abs=0.02)


def test_the_work_is_what_the_networks_do():
    "Counted for one slice of the published size."
    brain = torch.zeros(1, 1, 128, 128, dtype=bool)
    brain[:, :, 20:110, 20:110] = True
    batch = {m: torch.where(brain, 0.0, -1.0) for m in ("flair", "t2")} | {"brain": brain}
    plan, said = (
        Plan("x", preset="gpu", pairs=(("flair", "t2"),)),
        {k.split(",")[0]: float(v[0]) for k, v in cells("What it takes").items()},
    )
    nets = {m: untrained(plan, m, {"size": 128, "normalisation": "tukey"}) for m in plan.trained}
    load_frozen_decoder(nets["mmccd"], nets["cycle"])
    assert set(said) == {METHODS[m].title for m in nets} | {"all"}
    for m, d in nets.items():
        with FlopCounterMode(display=False) as count, torch.no_grad():
            d.loss(batch, torch.Generator().manual_seed(0))
        assert count.get_total_flops() / 2e9 == pytest.approx(said[METHODS[m].title], abs=0.01), m
