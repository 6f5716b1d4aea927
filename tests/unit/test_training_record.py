"""What a run folder holds beside weights: checkpoints, record, log, card; and what is refused."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_training import QUICK, Toy, detector, of_subjects

import mmccd.training
from mmccd import files, viz
from mmccd.detector import Threshold
from mmccd.registry import new_detector
from mmccd.training import record
from mmccd.training.checkpoint import ChecksummedCheckpointIO, checkpoint_path, checkpoints, newest_intact, remove_older
from mmccd.training.log import log_text, sample_figure
from mmccd.training.record import Difference, describe_run, explain, first_difference, open_run, upgraded, write_record
from mmccd.training.run import check_training, locked_run_folder, opening_lines
from mmccd.training_loop import ToyCycle


def silent(text):
    pass


# ------------------------------------------------------------------------------------------------- entry points
def test_entry_points():
    for name in mmccd.training.__all__:
        assert getattr(mmccd.training, name)
    assert mmccd.training.make_config("smoke") == mmccd.training.PRESETS["smoke"]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = mmccd.training.no_such_name


def test_old_names_still_lead_somewhere():
    with pytest.warns(FutureWarning, match="training_loop.ToyCycle") as caught:
        assert mmccd.training.ToyCycle is ToyCycle
    assert caught[0].filename == __file__


# ------------------------------------------------------------------------------------------------- checkpoints
@pytest.fixture
def two(tmp_path):
    "A run folder with two checkpoints."
    (tmp_path / "checkpoints").mkdir()
    for step in (4, 8):
        content = {"weights": torch.arange(2000.0), "step": step}
        ChecksummedCheckpointIO().save_checkpoint(content, checkpoint_path(tmp_path, step))
    return tmp_path


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-1],
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:],
        lambda b: b + b"x",
    ],
)
def test_damaged_checkpoint(two, damage):
    old, new = checkpoints(two)
    assert newest_intact(two, pytest.fail) == new
    assert ChecksummedCheckpointIO().load_checkpoint(new)["step"] == 8
    new.write_bytes(damage(new.read_bytes()))
    warnings = []
    assert newest_intact(two, warnings.append) == old
    assert warnings == [f"{new} is cut off or damaged; going on from the checkpoint before it."]
    old.write_bytes(old.read_bytes()[:100])
    with pytest.raises(ValueError, match="none of its checkpoints can be read; start again in another folder"):
        newest_intact(two, silent)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_unreadable_checkpoint(two, monkeypatch, number):
    "A file that cannot be read is not called damaged."
    _old, new = checkpoints(two)
    real = Path.read_bytes

    def refuse(self):
        if self == new:
            raise OSError(number, os.strerror(number), str(self))
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        ValueError, match=f"Cannot read .*{new.name}: {os.strerror(number)}; put that right, or delete it to go on from"
    ):
        newest_intact(two, silent)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_a_checkpoint_runs_no_code(two, monkeypatch):
    monkeypatch.setenv("EVIL", str(two / "evil"))
    old, new = checkpoints(two)
    ChecksummedCheckpointIO().save_checkpoint({"state_dict": Evil()}, new)  # with a good checksum
    with pytest.raises(Exception, match=r"(?i)weights"):
        ChecksummedCheckpointIO().load_checkpoint(new)
    assert newest_intact(two, silent) == old
    assert not (two / "evil").exists()


def test_old_checkpoints_make_room(two):
    for step in (12, 16):
        checkpoint_path(two, step).touch()
    remove_older(two, checkpoint_path(two, 12))
    assert checkpoints(two) == [checkpoint_path(two, s) for s in (8, 12, 16)]  # 16 is newer than the one just written


def test_the_record_is_written_durably(tmp_path, monkeypatch):
    "The record is the way back into a run: it must be on the disk before the first checkpoint is."
    synced = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda fd: (synced.append(any(tmp_path.glob(".*.part"))), real(fd)))
    record.write_record(tmp_path, {"status": "not done"})
    assert synced == [True, False]  # the file before it gets its name, then the folder
    assert json.loads((tmp_path / "train.json").read_text()) == {"status": "not done"}


# ------------------------------------------------------------------------------------------------- the same run?
ABOUT = describe_run(detector(), Toy(), Toy(8, seed=1), QUICK)


def test_differences_are_structured():
    assert first_difference(ABOUT, ABOUT) is None
    assert first_difference({"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [2], "d": 3}}) == (
        ("b", "c"),
        [1],
        [2],
    )
    assert first_difference({"a": None}, {}) is None
    found = first_difference({"a": "x" * 100}, {"a": "was x and is y now"})
    assert str(found) == f"a was {'x' * 57}... and is was x and is y now now"


@pytest.mark.parametrize(
    ("path", "old", "new", "words"),
    [
        ("config target", "t2", "t1", "--target was t2 and is t1 now"),
        ("config modalities", [], ["flair", "t2"], "--modalities was [] and is ['flair', 't2'] now"),
        ("config frozen_decoder", False, True, "--decoder was not given and is given now"),
        ("config width", 4, 8, "config.width was 4 and is 8 now"),
        ("training validate_every", 200, 10, "--validate-every was 200 and is 10 now"),
        ("training warmup", 3, 1, "warmup (of --preset) was 3 and is 1 now"),
        ("start", "a", "b", "start was a and is b now, so the first weights are others (of another --decoder)"),
        ("detector", "ToyCycle", "Other", "detector was ToyCycle and is Other now"),
        ("detector", "data was 1 and is 2 now", "B", "detector was data was 1 and is 2 now and is B now"),
    ],
)
def test_differences_in_terms_of_the_command(path, old, new, words):
    assert explain(Difference(tuple(path.split()), old, new)) == words


LEARN = "the slices to learn from are others: the store has changed since, or --val, --seed or the lists are others"


def changed_inside():
    data = Toy()
    data.d["t2"][11, 0, 16, 16] += 1  # one pixel of a slice in the middle
    return data


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (dict(config=replace(QUICK, lr=0.5)), "--lr was 0.001 and is 0.5 now"),
        (
            dict(config=replace(QUICK, steps=99)),
            "--steps was 12 and is 99 now, and a run cannot be lengthened, because its learning rate depends on its "
            "length; give",
        ),
        (dict(config=replace(QUICK, warmup=1)), r"warmup \(of --preset\) was 3"),
        (dict(config=replace(QUICK, batch_size=4)), "--batch-size was 8 and is 4"),
        (dict(config=replace(QUICK, seed=5)), "--seed was 0 and is 5"),
        (dict(config=replace(QUICK, patience=3)), "--patience was 0 and is 3"),
        (dict(data=Toy(25)), LEARN),
        (dict(data=Toy(24, seed=7)), LEARN),
        (dict(data=changed_inside()), LEARN),
        (dict(val=Toy(8, seed=9)), LEARN.replace("learn from", "validate on")),
        (dict(detector=detector(ToyCycle)), "detector was Noisy and is ToyCycle"),
        (dict(detector=detector(seed=1)), "start was [0-9a-f]{16} and is [0-9a-f]{16} now, so the first weights are"),
    ],
)
def test_resume_with_something_else(tmp_path, what, words):
    open_run(tmp_path, ABOUT, False, silent)
    before = (tmp_path / "train.json").read_bytes()
    given = dict(detector=detector(), data=Toy(), val=Toy(8, seed=1), config=QUICK) | what
    with pytest.raises(ValueError, match="Cannot go on with the training in .*" + words):
        open_run(tmp_path, describe_run(**given), True, silent)
    assert (tmp_path / "train.json").read_bytes() == before


def test_what_has_no_influence_may_change(tmp_path):
    "The calibration of the first weights, and the words for the data."
    open_run(tmp_path, ABOUT, False, silent)
    calibrated, data = detector(), Toy()
    calibrated.calibration = {"threshold": 1.0}
    data.describe = lambda: "the same slices in other words"
    about = describe_run(calibrated, data, Toy(8, seed=1), QUICK)
    assert open_run(tmp_path, about, True, silent)[1]["about"] == about
    assert calibrated.calibration


def test_record_of_an_earlier_version(tmp_path):
    "Fewer settings, other names, the module of the class, and a fingerprint that cannot be compared."
    old = json.loads(json.dumps(ABOUT)) | {"module": "mmccd.training", "start": "0123456789abcdef"}
    for name in ("patience", "progress"):
        del old["training"][name]
    write_record(tmp_path, {"status": "not done", "about": old})
    assert open_run(tmp_path, ABOUT, True, silent)[1] == {"status": "not done", "about": ABOUT}
    with pytest.raises(ValueError, match=r"--lr was 0\.001 and is 0.5 now"):
        open_run(tmp_path, describe_run(detector(), Toy(), Toy(8, seed=1), replace(QUICK, lr=0.5)), True, silent)
    old["config"] = {"frozen_back": True, "looks": 25}
    assert upgraded(old)["config"] == {"frozen_decoder": True, "n_steps": 25}


# ------------------------------------------------------------------------------------------------- folders
@pytest.mark.parametrize("content", [b"", b'{"status": "not do', b"\xff\x00"])
def test_damaged_record(tmp_path, content):
    (tmp_path / "train.json").write_bytes(content)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for resume in (True, False):
        with pytest.raises(
            ValueError,
            match=r"^Cannot go on in .*: its train.json is damaged; start again in another folder, or delete",
        ):
            open_run(tmp_path, ABOUT, resume, silent)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("content", ["[]", "{}", '{"status": "done"}', '[{"text": "data of somebody else"}]'])
def test_record_of_something_else(tmp_path, content):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match="is not empty and holds no training"):
        open_run(tmp_path, ABOUT, True, silent)


def test_unreadable_record(tmp_path, monkeypatch):
    (tmp_path / "train.json").write_text("{}")

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ValueError, match=r"Cannot read .*train\.json: Permission denied"):
        open_run(tmp_path, ABOUT, True, silent)


def test_killed_while_the_first_record_is_written(tmp_path):
    "What such a kill leaves is no reason to refuse."
    for name in (".lock", ".train.json.part", ".train.json.4711.part", ".DS_Store"):
        (tmp_path / name).write_text('{"stat')
    assert open_run(tmp_path, ABOUT, True, silent) == (None, {"status": "not done", "about": ABOUT})
    assert not list(tmp_path.rglob("*.part"))
    assert (tmp_path / ".DS_Store").exists()


def test_refused_folders_stay_as_they_are(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    (tmp_path / ".download.part").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no training"), locked_run_folder(tmp_path):
        pass
    assert (tmp_path / ".download.part").exists()
    assert not (tmp_path / ".lock").exists()
    with (
        pytest.raises(ValueError, match="a file is where a folder should be"),
        locked_run_folder(tmp_path / "thesis.txt"),
    ):
        pass


def test_two_processes_in_one_folder(tmp_path):
    (tmp_path / "run").mkdir()
    with (
        files.folder_lock(tmp_path / "run", "training"),
        pytest.raises(ValueError, match="Another process is training in"),
        locked_run_folder(tmp_path / "run"),
    ):
        pass
    with locked_run_folder(tmp_path / "run") as out:
        assert out == tmp_path / "run"


# ------------------------------------------------------------------------------------------------- what is refused
def check(**changes):
    given = dict(detector=detector(), data=Toy(), val=Toy(8, seed=1), config=QUICK, device="cpu") | changes
    check_training(**given)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (dict(data=Toy(0)), "no healthy slice for training"),
        (dict(val=Toy(0)), "no healthy slice for validation"),
        (dict(config=replace(QUICK, precision="fp16")), "fp16 needs a CUDA GPU and this is cpu"),
        (dict(detector=detector(target="t1")), "have no t1: choose among flair, t2"),
        (dict(detector=Threshold()), "Threshold has nothing to train"),
    ],
)
def test_early_refusals(what, words):
    check()
    with pytest.raises(ValueError, match=words):
        check(**what)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (dict(size=64), "has size 32 and the slices for training have 64"),
        (dict(normalisation="other"), "normalisation .* have other"),
    ],
)
def test_detector_and_slices_fit(recipe, words):
    data = Toy()
    data.recipe = recipe
    with pytest.raises(ValueError, match=words):
        check(data=data)


@pytest.mark.parametrize(
    ("lesion", "words"),
    [(0.7, "shows lesion: train and validate on healthy slices only"), (None, "is not known to be healthy")],
)
@pytest.mark.parametrize("part", ["training", "validation"])
def test_lesions_are_refused(lesion, words, part):
    data = of_subjects(Toy(), "a", "b", lesion=lesion if part == "training" else 0.0)
    val = of_subjects(Toy(8, seed=1), "c", lesion=lesion if part == "validation" else 0.0)
    with pytest.raises(ValueError, match=f"^a slice of [bc] for {part} .*{words}"):
        check(data=data, val=val)


@pytest.mark.parametrize(
    ("ids", "val_ids", "shared"),
    [
        (["a", "b"], ["b"], "b"),
        (["p_ses-1", "q"], ["p_ses-2"], "p"),
        (["a"], ["a_healthy_twin"], "a"),
        (["BraTS-GLI-00005-000"], ["BraTS-GLI-00005-001"], "BraTS-GLI-00005"),
        (["p_ses-1", "p_ses-2"], ["q"], None),
    ],
)
def test_shared_subjects_are_refused(ids, val_ids, shared):
    given = dict(data=of_subjects(Toy(), *ids), val=of_subjects(Toy(8, seed=1), *val_ids))
    if shared is None:
        return check(**given)
    with pytest.raises(
        ValueError, match=f"^{shared} is among the subjects for training and for validation: split by subject"
    ):
        check(**given)


# ------------------------------------------------------------------------------------------------- words and pictures
def test_opening_lines():
    few, many = (of_subjects(Toy(8, seed=1), *ids) for ids in (("c", "c_healthy_twin"), ("c", "d", "e")))
    lines = opening_lines(of_subjects(Toy(), "a", "b"), few, QUICK, None, True)
    assert lines[0] == "learning from 24 healthy slices of 2 subjects, validating on 8 of 1 subject"
    assert "rests on 1 validation subject only" in lines[1]
    assert lines[2:] == ["no checkpoint yet, starting from the beginning"]
    for val in (many, Toy(8)):
        assert len(opening_lines(Toy(), val, QUICK, None, False)) == 1
    assert opening_lines(Toy(1), many, QUICK, Path("step-0000008.ckpt"), True) == [
        "learning from 1 healthy slice, validating on 8 of 3 subjects",
        "going on from step 8 of 12",
    ]


def test_log_text_loses_nothing():
    rows = [dict(step=0, val_loss=0.5), dict(step=10, loss=0.1 + 0.2, lr=1e-3)]
    head, first, second = log_text(rows).splitlines()
    assert head == "step,samples,loss,lr,grad_norm,val_loss,threshold,seconds"
    assert first == "0,,,,,0.5,,"
    assert float(second.split(",")[2]) == 0.1 + 0.2
    head, first, _ = log_text([rows[0] | {"imagination_r2": -0.25}, rows[1]]).splitlines()
    assert dict(zip(head.split(","), first.split(",")))["imagination_r2"] == "-0.25"


def test_sample_rows(monkeypatch):
    "What translates shows its target and prediction; what reconstructs, its reconstruction."
    shown = {}
    monkeypatch.setattr(viz, "show_rows", lambda rows, row_titles, **kw: shown.update({"titles": row_titles, **kw}))
    sample_figure(detector(ToyCycle), Toy(4))
    assert shown["titles"] == ["input flair", "target t2", "prediction", "map"]
    assert len(shown["vmax"]) == len(shown["cmap"]) == 4
    sample_figure(new_detector("ae", size=32), Toy(4))
    assert shown["titles"] == ["input flair", "reconstruction", "map"]
    assert shown["vmax"] == [1.0, 1.0, 0.5]
    assert shown["cmap"] == ["gray", "gray", "inferno"]
