"""A checkpoint that is whole is still not believed: of another training, or with values that no training has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import QUICK, Toy, detector

from mmccd.files import hash_file
from mmccd.training.checkpoint import ChecksummedCheckpointIO, check_content, checkpoint_path, checkpoints
from mmccd.training.record import WEIGHTS, describe_run, open_run, write_record

ABOUT = describe_run(detector(), Toy(), Toy(8, seed=1), QUICK)
ROW = {"step": 0, "samples": 0, "val_loss": 0.5, "threshold": 1.0, "seconds": 0.1}


def loops(step):
    "What Lightning keeps of how far it is, as far as it decides where a training goes on."
    steps = {"optimizer": {"step": {"total": {"completed": step}}}}
    return {"fit_loop": {"epoch_loop.automatic_optimization.optim_progress": steps}}


def content(step=4, about=ABOUT, **changes):
    state = {"rows": [ROW], "spent": 1.0, "pause": 0.1, "calibration": {"threshold": 1.0}} | changes.pop("state", {})
    return {
        "global_step": step,
        "losses": [0.1],
        "callbacks": {"Keeper": state},
        "state_dict": {"w": torch.ones(3), "n": torch.tensor(3)},
        "optimizer_states": [{}],
        "lr_schedulers": [{}],
        "loops": loops(step),
        "about": json.dumps(about),
    } | changes


@pytest.fixture
def run(tmp_path):
    write_record(tmp_path, {"status": "not done", "about": ABOUT})
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def put(run, step, value):
    ChecksummedCheckpointIO().save_checkpoint(value, checkpoint_path(run, step))
    return checkpoint_path(run, step)


def test_it_goes_on(run):
    put(run, 4, content(4))
    new = put(run, 8, content(8))
    assert open_run(run, ABOUT, True, pytest.fail)[0] == new


def test_of_version_0_1(run):
    "Those do not say what they are of."
    old = content(4)
    del old["about"]
    path = put(run, 4, old)
    assert open_run(run, ABOUT, True, pytest.fail)[0] == path


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        {},
        content(5),
        content(8, global_step=10**9),
        content(8, callbacks={}),
        content(8, callbacks=[]),
        content(8, losses="x"),
        content(8, losses=[float("nan")]),
        content(8, losses=None),
        content(8, state_dict=1),
        content(8, state_dict={"w": torch.tensor([1.0, float("nan")])}),
        content(8, state_dict={"w": "evil"}),
        content(8, state={"rows": "abc"}),
        content(8, state={"rows": [{"step": 5}]}),
        content(8, state={"rows": [ROW | {"loss": "x"}]}),
        content(8, state={"rows": [ROW | {"step": True}]}),
        content(8, state={"calibration": "evil"}),
        content(8, state={"calibration": {"threshold": float("nan")}}),
        content(8, state={"spent": -1.0}),
        content(8, state={"pause": None}),
        content(8, about=5),
        content(8, about=[1]),
        content(8, optimizer_states=[]),
        content(8, lr_schedulers=None),
        content(8, loops={}),
        content(8, loops=loops(10**9)),
    ],
)
def test_values_that_no_training_has(run, value):
    old = put(run, 4, content(4))
    new = put(run, 8, value)
    warnings = []
    assert open_run(run, ABOUT, True, warnings.append)[0] == old
    assert warnings == [f"{new} is cut off or damaged; going on from the checkpoint before it."]


def test_a_checkpoint_of_another_training(run):
    "Its numbers would fit: same detector, same shapes."
    put(run, 4, content(4))
    put(run, 8, content(8, about=describe_run(detector(), Toy(), Toy(8, seed=1), replace(QUICK, lr=0.5))))
    with pytest.raises(ValueError, match=r"step-0000008\.ckpt is of another training \(training\.lr was 0\.5 and is"):
        open_run(run, ABOUT, True, pytest.fail)


def test_infinite_gradients_of_half_precision_are_usual():
    check_content(content(4, state={"rows": [ROW | {"grad_norm": float("inf")}]}), 4)


# ---- the record
@pytest.mark.parametrize(
    "changes",
    [
        {"status": "perhaps"},
        {"status": 5},
        {"about": [1]},
        {"about": {"config": 5}},
        {"about": {"data": "x"}},
        {"status": "done"},
        {"status": "done", "result": {"step": 12}},
        {"status": "done", "result": ROW | {"loss": "x"}},
        {"status": "done", "result": ROW | {"loss": 1.0, "step": -5}},
        {"hashes": [1]},
    ],
)
def test_a_record_of_wrong_types(run, changes):
    write_record(run, {"status": "not done", "about": ABOUT} | changes)
    with pytest.raises(ValueError, match=r"train\.json is damaged; start again in another folder"):
        open_run(run, ABOUT, True, pytest.fail)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"status": "done", "about": ' + "[" * 100_000])
def test_a_record_that_is_too_deep(run, text):
    (run / "train.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.json is damaged"):
        open_run(run, ABOUT, True, pytest.fail)


def test_weights_that_changed_after_the_end_are_written_again(run):
    for name in ("config.json", WEIGHTS):
        (run / name).write_text(name)
    last = put(run, 12, content(12))
    done = {
        "status": "done",
        "about": ABOUT,
        "result": ROW | {"loss": 1.0},
        "hashes": {WEIGHTS: hash_file(run / WEIGHTS)},
    }
    write_record(run, done)
    assert open_run(run, ABOUT, True, pytest.fail)[1] == done
    (run / WEIGHTS).write_text("flipped")
    warnings = []
    assert open_run(run, ABOUT, True, warnings.append) == (last, {"status": "not done", "about": ABOUT})
    assert len(warnings) == 1
    assert WEIGHTS in warnings[0]


# ---- what others left
def test_killed_before_it_made_room(run):
    "The oldest of three goes; what is newer than the one to go on from is damaged, and stays."
    paths = [put(run, step, content(step)) for step in (4, 6, 8, 10)]
    paths[-1].write_bytes(b"cut off")
    assert open_run(run, ABOUT, True, lambda _: None)[0] == paths[2]
    assert checkpoints(run) == paths[1:]


def test_leftovers_of_ours_alone_are_removed(run):
    for name in (".train.json.part", ".log.csv.4711.part", "checkpoints/.step-0000004.ckpt.part"):
        (run / name).write_text("half")
    (run / ".thesis.part").write_text("mine")
    (run / ".notes.part").mkdir()
    open_run(run, ABOUT, True, pytest.fail)
    left = {p.name for p in run.rglob(".*")}
    assert left == {".thesis.part", ".notes.part"}


def test_links_lead_nowhere(run, tmp_path_factory):
    "What an old temporary name or the record itself links to is not touched."
    mine = tmp_path_factory.mktemp("mine") / "thesis.txt"
    mine.write_text("mine")
    (run / ".train.json.part").symlink_to(mine)
    (run / "checkpoints/.step-0000004.ckpt.part").symlink_to(mine)
    open_run(run, ABOUT, True, pytest.fail)
    write_record(run, {"status": "not done", "about": ABOUT})
    put(run, 4, content(4))
    assert mine.read_text() == "mine"
    assert Path(mine).is_file()
