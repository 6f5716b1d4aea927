'The page "Reproduce the paper on BraTS2021", followed line by line on twelve phantoms laid out as BraTS2021.'

import json
import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import pytest
from brats_page import lines, table_commands

from mmccd.benchmark import plan as plans
from mmccd.benchmark.dataset import calibration_slices, subject_split
from mmccd.benchmark.measure import anomaly_maps
from mmccd.benchmark.networks import Entry, load_entry
from mmccd.benchmark.plan import PAIRS, RECIPES, Plan, ScanSource
from mmccd.benchmark.run import FIGURES, FILES
from mmccd.benchmark.tables import PUBLISHED, PUBLISHED_PAIRS
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import read_list
from mmccd.cli.app import main
from mmccd.detector import healthy_threshold
from mmccd.registry import METHODS

SMALL = {
    "--preset gpu": "--preset smoke",
    "--lists brats2021": "--lists lists",
    "--device cuda": "--device cpu",
    "--size 128": "--size 32",
    "--size 240": "--size 64",
}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_trainings")]
PARTS = {"train": 7, "val": 2, "test": 3}
TABLES = list(table_commands())


@pytest.fixture(scope="module")
def follow():
    "A call that follows one line of the page in a folder, with small sizes and ten steps; returns what it printed."
    smoke = replace(RECIPES["smoke"], training=replace(RECIPES["smoke"].training, steps=10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plans.RECIPES, "smoke", smoke)
        yield lambda line, place: run_line(line, place, patch)


def run_line(line, place, patch):
    for old, new in SMALL.items():
        line = line.replace(old, new)
    if not line.startswith("mmccd "):
        return subprocess.run(line, shell=True, cwd=place, check=True, capture_output=True, text=True).stdout
    patch.chdir(place)
    with redirect_stdout(StringIO()) as printed:
        assert main(shlex.split(line)[1:]) == 0, line
    return printed.getvalue()


def lay_out(place):
    "Twelve phantoms as BraTS2021; healthy and ill in each part, as no list knows who is what."
    made = place / "made"
    assert main(["phantom", str(made), *shlex.split("--healthy 6 --glioma 6 --seed 5 --slices 74:78")]) == 0
    healthy, ill = (sorted(made.glob(f"*-{kind}-*")) for kind in ("healthy", "glioma"))
    parts = {"train": healthy[:4] + ill[:3], "val": healthy[4:5] + ill[3:4], "test": healthy[5:] + ill[4:]}
    (place / "lists").mkdir()
    for k, (part, case) in enumerate((p, c) for p, cases in parts.items() for c in cases):
        new = place / "BraTS2021" / f"BraTS2021_{k:05}"
        new.mkdir(parents=True)
        for file in case.glob("*.nii.gz"):
            file.rename(new / file.name.replace(case.name, new.name))
        with (place / "lists" / f"{part}.txt").open("a") as f:
            f.write(f"{new.name}\n")
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def done(tmp_path_factory, follow):
    "The folder in which the page was followed, and what each line printed."
    place = tmp_path_factory.mktemp("reproduce")
    lay_out(place)
    return place, {line: follow(line, place) for line in lines()}


def result(place, out):
    return json.loads((place / out / FILES["json"]).read_text())


def listed(place, part):
    return read_list(place / "lists" / f"{part}.txt")


def test_all_small_sizes_are_used():
    "Whoever adds a line that this test does not replace must see it."
    assert all(old in " ".join(lines()) for old in SMALL)


@pytest.mark.parametrize("out", TABLES)
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
        assert all(row.place in range(74, 79) for row in store.table)


def test_the_plan_does_nothing(done):
    place, said = done
    text = next(text for line, text in said.items() if "--plan" in line)
    assert all(METHODS[m].title in text for m in ("ae", "vae", "dae", "ddpm", "cycle", "mmccd"))
    assert "3 subjects" in text
    assert not (place / "benchmark").exists()


@pytest.mark.parametrize("out", TABLES)
def test_who_learns_is_not_tested(done, out):
    place, _ = done
    found, parts = result(place, out), {p: set(listed(place, p)) for p in PARTS}
    tested = {row[0] for row in found["subjects"]["rows"]}
    assert {p: len(v) for p, v in parts.items()} == PARTS
    assert tested | set(found["subjects"]["left_out"]) == parts["test"]
    assert not found["subjects"]["healthy"]
    assert (len(tested), len(found["subjects"]["left_out"])) == (2, 1)
    learned = [json.loads((r / "train.json").read_text())["about"] for r in sorted((place / out / "runs").iterdir())]
    assert len(learned) == 7
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
    lists = [str(place / "lists" / f"{p}.txt") for p in PARTS]
    scans = ScanSource(str(place / "brats128.zarr"), *lists, str(place / "brats240.zarr"))
    plan = Plan(place / "x", preset="smoke", pairs=(("flair", "t2"),), scans=scans)
    assert subject_split(plan)["calibrate"] == listed(place, "val")
    assert found["data"]["calibrate"] == calibration_slices(plan)[1]
    other = replace(plan, scans=replace(scans, val_list=scans.train_list, train_list=scans.val_list))

    def level(plan):
        batch = calibration_slices(plan)[0]
        detector = load_entry(plan, Entry("threshold-flair", "threshold", "flair", None, False))
        return healthy_threshold(anomaly_maps(detector, batch, 0)[batch["brain"]], plan.recipe.fpr)

    threshold = found["scores"]["threshold-flair"]["threshold"]
    assert level(plan) == pytest.approx(threshold, rel=1e-4)
    assert level(other) != pytest.approx(threshold, rel=0.02)


def row(text, name):
    "Cells of the first line of a table that begins so."
    return [c.strip() for c in re.search(rf"^\| {re.escape(name)} \|(.*)\|$", text, re.M)[1].split("|")]


def test_table_one(done):
    "Ours, the published line in grey under it, and the two rows below which nothing may fall."
    place, _ = done
    table = (place / "brats-flair-t2/tables.md").read_text().split("\n\n")[1]
    scores = result(place, "brats-flair-t2")["scores"]
    names = re.findall(r"^\| (.*?) \|", table, re.M)[2:]
    grey = '<span style="color:gray">(published)</span>'
    assert names[:2] == ["everything positive", "threshold"]
    for m, published in PUBLISHED.items():
        title = METHODS[m].title
        i = names.index(title)
        assert names[i + 1] == grey
        assert f"{title}, shipped weights" in names
        theirs = table.splitlines()[i + 3]
        for k in ("auroc", "dice_oracle", "recall_oracle"):
            assert f'<span style="color:gray">({published[k]:.2f})</span>' in theirs
        key = next(k for k, e in scores.items() if e["method"] == m and not e["shipped"])
        ap = scores[key]["kinds"]["patient"]["summary"]["ap"]["mean"]
        assert row(table, title)[0].startswith(f"{ap:.2f} ")
    assert names.count(grey) == 6
    assert sum("shipped" in n for n in names) == 7


def test_table_two(done):
    place, _ = done
    text = (place / "brats-six-pairs/tables.md").read_text()
    oracle = text[text.index("Dice at the oracle threshold") :]
    titles = [METHODS[m].title for m in ("everything", "threshold", "dae", "ddpm", "cycle", "mmccd")]
    assert all(len(row(oracle, title)) == 6 for title in titles)
    for m, dice in PUBLISHED_PAIRS.items():
        grey = re.findall(r"\((.*?)\)", " ".join(row(oracle, METHODS[m].title)))
        assert grey == [f"{dice['-'.join(p)]:.2f}" for p in PAIRS]


def test_the_same_line_again_trains_nothing(done, follow):
    place, out = done[0], "brats-flair-t2"

    def kept():
        files = [p for part in ("runs", "scores") for p in (place / out / part).rglob("*") if p.is_file()]
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files if p.name != ".lock"}

    before, first = kept(), result(place, out)
    (place / out / FILES["markdown"]).unlink()
    follow(table_commands()[out], place)
    again = result(place, out)
    assert kept() == before
    assert (place / out / FILES["markdown"]).exists()
    assert len(before) > 40
    assert (again["networks"], again["scores"]) == (first["networks"], first["scores"])
