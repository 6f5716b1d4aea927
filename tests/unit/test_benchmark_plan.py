"What is decided before the first number: plans, recipes, lists, the order of work, the folder of a plan."

import json
import re
from concurrent.futures import Future
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Namespace

import pytest
from small_benchmark import sentence
from toy_cases import tree

from mmccd.anatomy import KINDS
from mmccd.benchmark import schedule
from mmccd.benchmark.networks import entries
from mmccd.benchmark.plan import (
    RECIPES,
    RENAMED,
    Plan,
    ScanSource,
    paths_of,
    split_lists,
    stopping_rule,
    with_absolute_paths,
    write_or_check_plan,
)
from mmccd.benchmark.run import describe_plan, run_benchmark, scan_notes
from mmccd.benchmark.schedule import ProgressDisplay, Task, list_tasks, run_in_turn, run_on_workers, task_summary
from mmccd.cases.subjects import split_from_lists
from mmccd.cluster import KilledError
from mmccd.files import folder_lock
from mmccd.training_loop import TrainConfig


# ------------------------------------------------------------------------------------------------- plans
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "tpu"}, "unknown preset 'tpu': choose smoke, cpu, gpu"),
        ({"methods": ("dae", "unet")}, "unknown method 'unet': choose "),
        ({"methods": ("toy",)}, "unknown method 'toy': choose "),
        ({"shipped": "yes"}, "choose no, also, only"),
        ({"sampler": "slow"}, "unknown sampler 'slow': choose "),
        ({"pairs": (("flair", "flair"),)}, "got flair-flair"),
        ({"pairs": (("flair", "pd"),)}, "got flair-pd"),
        ({"pairs": ()}, "got none"),
        ({"pairs": (("flair",),)}, "got flair"),
        ({"pairs": (("t1", "t2"), ("t1", "t2"))}, "each pair counts once, got t1-t2, t1-t2"),
    ],
)
def test_bad_plans(tmp_path, changes, words):
    assert words in sentence(Plan, tmp_path / "out", **changes)


def test_a_plan():
    p = Plan("x", methods=["mmccd", "dae"], pairs=[["t1", "t2"], ["t1", "flair"]], seed=5)
    assert p.methods == ("everything", "threshold", "dae", "mmccd")
    assert p.trained == ("dae", "cycle", "mmccd")
    assert p.training_order == ("cycle", "dae", "mmccd")
    assert p.modalities == ("flair", "t1", "t2")
    assert p.inputs == ("t1",)
    assert hash(p) == hash(replace(p))
    assert p == Plan("x", methods=["dae", "mmccd"], pairs=p.pairs, seed=5)
    assert p.training == replace(p.recipe.training, seed=5)
    assert Plan("x", methods=()).methods == ("everything", "threshold")


def test_rows():
    p = Plan("x", methods=["mmccd", "dae"], pairs=[["t1", "t2"], ["t1", "flair"]])
    assert [e.key for e in entries(p)] == ["everything", "threshold-t1", "dae-t1", "mmccd-t1-t2", "mmccd-t1-flair"]
    only = replace(p, shipped="only")
    assert only.trained == ()
    assert [e.key for e in entries(only)] == [
        "everything",
        "threshold-t1",
        "dae-t1 shipped",
        "mmccd-t1-t2 shipped",
        "mmccd-t1-flair shipped",
    ]
    both = [e.key for e in entries(replace(p, shipped="also"))]
    assert both[2:4] == ["dae-t1", "dae-t1 shipped"]
    assert len(both) == 2 + 2 * 3


@pytest.mark.parametrize("name", RECIPES)
def test_no_phantom_is_for_two_things(name):
    "Those that train, calibrate and are tested come from other seeds, in every preset and between them."
    recipes = {id(r): r for r in (RECIPES[name], RECIPES["smoke" if name != "smoke" else "cpu"])}
    seeds = [p.seed for r in recipes.values() for p in (r.learn, r.calibrate, r.test)]
    assert len(set(seeds)) == 6
    assert not any(getattr(p, k) for p in (RECIPES[name].learn, RECIPES[name].calibrate) for k in KINDS[1:])


def test_stopping_rules():
    assert len({stopping_rule(r.training) for r in RECIPES.values()}) == 3
    assert "whatever the loss" in stopping_rule(TrainConfig())
    assert "less than 1%, or after 12,000 steps" in stopping_rule(RECIPES["cpu"].training)


def test_a_described_plan(tmp_path):
    "What would be done; nothing is."
    text = describe_plan(Plan(tmp_path / "out", "smoke", (("flair", "t2"),), ("dae", "mmccd")))
    assert [line.split()[0] for line in text.splitlines()] == ["make", "train", "train", "train", "measure", "a"]
    assert "make 4 + 2 + 5 phantom heads" in text
    assert "measure 4 lines on 5 subjects, on cpu" in text
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------- lists
def test_packaged_lists():
    "The published lists: nobody twice."
    lists = split_lists("brats2021")
    names = {k: {n.split()[0] for n in Path(p).read_text().splitlines() if n.strip()} for k, p in lists.items()}
    parts = split_from_lists(
        set().union(*names.values()), train=lists["train_list"], val=lists["val_list"], test=lists["test_list"]
    )
    assert {k: len(v) for k, v in parts.items()} == {"train": 974, "val": 138, "test": 139}


@pytest.mark.parametrize("missing", ["test.txt", None])
def test_lists_that_are_not_there(tmp_path, missing):
    if missing:
        for n in ("train.txt", "val.txt"):
            (tmp_path / n).write_text("a\n")
    assert ("has no test.txt" if missing else "there is no folder") in sentence(
        split_lists, tmp_path if missing else tmp_path / "none"
    )


# ------------------------------------------------------------------------------------------------- its folder
def test_a_folder_belongs_to_a_plan(tmp_path):
    plan = Plan(tmp_path, "smoke", methods=("dae",))
    write_or_check_plan(plan, tmp_path)
    before = tree(tmp_path)
    write_or_check_plan(replace(plan, device="cuda", out="elsewhere"), tmp_path)  # it may move, and go on elsewhere
    for changes in (
        {"seed": 2},
        {"pairs": plan.pairs[:1]},
        {"methods": ("ae",)},
        {"preset": "cpu"},
        {"shipped": "also"},
    ):
        assert re.match(
            rf"cannot go on with the benchmark in {re.escape(str(tmp_path))}: \w+ was .* now; "
            "ask for the same, or choose another folder",
            sentence(write_or_check_plan, replace(plan, **changes), tmp_path),
        )
    assert tree(tmp_path) == before


def test_a_plan_of_an_older_version(tmp_path):
    "Fields of the recipe had other names."
    plan, new = Plan(tmp_path, "smoke"), {v: k for k, v in RENAMED.items()}
    write_or_check_plan(plan, tmp_path)
    kept = json.loads((tmp_path / "plan.json").read_text())
    assert set(RENAMED.values()) < set(asdict(plan.recipe)) == set(kept["recipe"])
    assert [kept["recipe"]["learn"].pop(k) for k in ("every", "varied")] == [1, []]  # older than these, too
    kept["recipe"] = {new.get(k, k): v for k, v in kept["recipe"].items()}
    (tmp_path / "plan.json").write_text(json.dumps(kept))
    write_or_check_plan(plan, tmp_path)


def test_what_stores_lack_is_said_once(tmp_path, monkeypatch):
    scans = ScanSource("a", "t", "v", "e", test_store="b")
    monkeypatch.setattr("mmccd.benchmark.run.SliceStore", lambda path: Namespace(notes=["unfinished", f"{path}: old"]))
    assert scan_notes(Plan(tmp_path, "smoke", scans=scans)) == ["unfinished", "a: old", "b: old"]
    assert scan_notes(Plan(tmp_path, "smoke")) == []


def test_two_at_once_are_kept_apart(tmp_path):
    write_or_check_plan(Plan(tmp_path, "smoke"), tmp_path)
    with folder_lock(tmp_path, "running a benchmark"):
        before = tree(tmp_path)
        assert "Another process is running a benchmark" in sentence(run_benchmark, Plan(tmp_path, "smoke"))
        assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("plan.json", "[" * 100_000, "its plan.json is damaged"),
        ("notes.txt", "mine", "is not empty and holds no benchmark"),
        ("plan.json", "{", "its plan.json is damaged"),
        ("plan.json", "[1]", "its plan.json is damaged"),
        ("plan.json", "{}", "its plan.json is damaged"),
    ],
)
def test_folder_of_something_else(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    assert words in sentence(run_benchmark, Plan(tmp_path, "smoke"), progress=False)
    assert tree(tmp_path) == before


def test_file_for_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out/deeper"):
        assert "a file is where a folder should be" in sentence(run_benchmark, Plan(out, "smoke"), progress=False)
    assert "jobs must be 1 or more, got 0" in sentence(run_benchmark, Plan(tmp_path / "new", "smoke"), jobs=0)
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------------------------------------- the order of work
def test_what_waits_for_what():
    p = Plan("x", methods=["mmccd", "dae"], pairs=[["t1", "t2"], ["t1", "flair"]])
    waits = {t.name: t.after for t in list_tasks(p)}
    assert list(waits)[:3] == ["train cycle", "train dae", "train mmccd"]
    assert waits["train cycle"] is waits["train dae"] is waits["score threshold-t1"] is None
    assert waits["train mmccd"] == "train cycle"
    assert waits["score dae-t1"] == "train dae"
    assert waits["score mmccd-t1-t2"] == "train mmccd"


class SilentDisplay:
    "A display that shows nothing."

    def begin(self, name):
        pass

    def message(self, text):
        pass


class InlineWorkers:
    "Workers without processes: each task is done when it is waited for, the newest first."

    def __init__(self):
        self.running, self.most, self.slots = [], 0, 1

    def submit(self, name, work):
        self.running.append((future := Future(), work))
        self.most = max(self.most, len(self.running))
        return future

    def wait(self, *_):
        future, work = self.running.pop()
        try:
            future.set_result(work())
        except Exception as e:
            future.set_exception(e)
        return Namespace(done={future})


@pytest.fixture
def inline(monkeypatch):
    workers = InlineWorkers()
    monkeypatch.setattr(schedule, "wait", workers.wait)
    return workers


def toy_tasks(log):
    return [
        Task(n, after, partial(lambda n: log.append(n) or n.upper(), n))
        for n, after in (("a", None), ("b", None), ("c", "a"), ("d", "c"), ("e", "b"))
    ]


def test_tasks_wait_for_what_they_need(inline):
    for inline.slots in (1, 2, 3):
        log, inline.most = [], 0
        assert dict(run_on_workers(toy_tasks(log), inline, SilentDisplay())) == {n: n.upper() for n in "abcde"}
        assert inline.most == min(inline.slots, 2)
        assert log.index("a") < log.index("c") < log.index("d")
        assert log.index("b") < log.index("e")
    assert list(run_in_turn(toy_tasks([]), SilentDisplay())) == [(n, n.upper()) for n in "abcde"]


def test_a_task_that_fails(inline):
    "What waits for it is never begun."
    log = []

    def fails():
        raise KilledError("SIGKILL")

    with pytest.raises(KilledError):
        list(
            run_on_workers([Task("a", None, fails), Task("b", "a", partial(log.append, "b"))], inline, SilentDisplay())
        )
    assert not log


def test_paths_that_other_computers_understand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scans = ScanSource("s", "a.txt", "b.txt", "c.txt")
    there = with_absolute_paths(Plan("out", "smoke", scans=scans))
    assert paths_of(there) == [str(tmp_path / n) for n in ("out", "s", "a.txt", "b.txt", "c.txt")]
    assert (there.scans.test_store, there.scans.subjects) == ("", None)
    assert paths_of(with_absolute_paths(Plan("out"))) == [str(tmp_path / "out")]


def test_a_line_for_each_task_where_there_is_no_terminal(tmp_path, capsys):
    row = {"kinds": {"ms": {"summary": {"ap": {"mean": 0.5}}}}}
    training = {"result": {"step": 40, "val_loss": 0.0123456}}
    with ProgressDisplay(2, tmp_path) as display:
        for name, result in (("train dae", training), ("score dae-flair", row)):
            display.begin(name)
            display.end(name, task_summary(result))
        display.begin("train ae")
        (tmp_path / "runs/ae").mkdir(parents=True)
        assert display.describe("train ae") == "train ae"
        (tmp_path / "runs/ae/log.csv").write_text("step,loss\n10,0.5\n20,0.4\n")
        assert display.describe("train ae") == "train ae: step 20"
    out, err = capsys.readouterr()
    assert not out
    assert [line for line in err.splitlines() if line] == [
        "train dae: 40 steps, validation loss 0.01235, 0 s",
        "score dae-flair: AP 0.50 (ms), 0 s",
    ]
    with ProgressDisplay(1, tmp_path, show=False) as display:
        display.message("nobody reads this")
    assert capsys.readouterr() == ("", "")
