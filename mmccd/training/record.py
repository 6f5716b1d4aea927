"""What decides how a run ends, written down before it starts, and compared when it is to go on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from annotated_types import Ge
from typing_extensions import TypedDict

from mmccd.detector import Detector, fingerprint
from mmccd.files import hash_file, remove_leftovers, write_durably
from mmccd.registry import registered_class
from mmccd.runtime import evenly_spaced, say
from mmccd.schemas import Natural, checked
from mmccd.training.checkpoint import (
    ForeignCheckpointError,
    check_content,
    checkpoint_step,
    explained_write_errors,
    newest_intact,
    remove_older,
)
from mmccd.training.data import TrainingData
from mmccd.training_loop import OPTIONS, TrainConfig, describe_data, without_labels
from mmccd.weights.renames import current_config

Record = dict[str, Any]  # as in train.json: status, about; and, once done, device, torch, date, result


class About(TypedDict):
    """What decides how a run ends; see `describe_run`."""

    detector: NotRequired[str]
    config: NotRequired[dict[str, Any]]
    training: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    validation: NotRequired[dict[str, Any]]
    start: NotRequired[str]


class Result(TypedDict):
    """The last line of the log of a run that is done."""

    step: Natural
    samples: Natural
    loss: float
    val_loss: float
    seconds: Annotated[float, Ge(0)]


class RunRecord(TypedDict):
    """What train.json holds; `hashes` has SHA-256 of the files that must not change any more."""

    status: Literal["not done", "done"]
    about: About
    device: NotRequired[str]
    torch: NotRequired[str]
    date: NotRequired[str]
    result: NotRequired[Result]
    hashes: NotRequired[dict[str, str]]


WEIGHTS = "model.safetensors"
RESULT_FILES = ("config.json", WEIGHTS)  # what `Detector.from_pretrained` needs
NAMES = r"train\.json|log\.csv|config\.json|model\.safetensors|README\.md|curve\.png|step-\d{7}\.(ckpt|png)"
OLD_PART = re.compile(rf"\.({NAMES})(\.\d+)?\.part")
ERROR_OPTIONS = {"window": "--median", "expected": "--expected-error"}  # for fields of an `ErrorMapConfig`
DETECTOR_OPTIONS = ("input", "target", "modalities")  # fields of a detector's config that are options of `mmccd train`


def data_record(data: TrainingData) -> Record:
    """What a data set is, with a checksum over the images and brains of up to 32 slices spread over it."""
    some = without_labels(data.batch(evenly_spaced(len(data), 32)))
    check = hashlib.sha256(b"".join(some[k].contiguous().numpy().tobytes() for k in sorted(some))).hexdigest()[:16]
    subjects = getattr(data, "subjects", None)
    return ({"subjects": dict(subjects)} if subjects else {}) | {
        "slices": len(data),
        "what": describe_data(data),
        "ids": list(getattr(data, "ids", [])),
        "recipe": getattr(data, "recipe", None),
        "check": check,
    }


def describe_run(detector: Detector, data: TrainingData, val: TrainingData, config: TrainConfig) -> Record:
    """All that decides how a run ends, ready for JSON: detector, settings, data, fingerprint of the first weights.

    Where the detector's class lies and how it is calibrated has no influence and is left out.
    """
    about = {
        "detector": type(detector).__name__,
        "config": asdict(detector.config),
        "training": asdict(config),
        "data": data_record(data),
        "validation": data_record(val),
        "start": fingerprint(detector),
    }
    return json.loads(json.dumps(about, default=str))


class Difference(NamedTuple):
    """A value in which two records differ."""

    path: tuple[str, ...]  # the keys that lead to it
    old: Any
    new: Any

    @property
    def change(self) -> str:
        """`was 1 and is 2 now`, long values cut short."""

        def short(value: Any) -> str:
            return str(value) if len(str(value)) < 60 else f"{str(value)[:57]}..."

        return f"was {short(self.old)} and is {short(self.new)} now"

    def __str__(self) -> str:
        return f"{'.'.join(self.path)} {self.change}"


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], path: tuple[str, ...] = ()) -> Difference | None:
    """The first value in which two records differ, inside nested records too; None where they agree."""
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found = first_difference(a, b, (*path, key))
        else:
            found = None if a == b else Difference((*path, key), a, b)
        if found:
            return found
    return None


def explain(difference: Difference) -> str:
    """A difference between two runs in terms of the options of `mmccd train`; the only place that words them."""
    change = difference.change
    match difference.path:
        case ("data" | "validation" as part, *_):
            purpose = {"data": "learn from", "validation": "validate on"}[part]
            return (
                f"the slices to {purpose} are others: the store has changed since, or --val, --seed or the lists are "
                "others"
            )
        case ("training", "steps"):
            return f"--steps {change}, and a run cannot be lengthened, because its learning rate depends on its length"
        case ("config", "frozen_decoder"):
            was, now = ("given" if value else "not given" for value in (difference.old, difference.new))
            return f"--decoder was {was} and is {now} now"
        case ("config", "error", name) if name in ERROR_OPTIONS:
            return f"{ERROR_OPTIONS[name]} {change}"
        case ("start",):
            return f"{difference}, so the first weights are others (of another --decoder)"
        case ("training", name) if name in OPTIONS:
            return f"--{name.replace('_', '-')} {change}"
        case ("config", name) if name in DETECTOR_OPTIONS:
            return f"--{name} {change}"
        case ("training", name):
            return f"{name} (of --preset) {change}"
        case _:
            return str(difference)


def upgraded(about: Record) -> Record:
    """The description of a run that an earlier version wrote, in the terms of this one.

    Earlier versions had fewer settings and other names of fields. They wrote the module of the detector's class, which
    was part of their fingerprints too; so the one of the first weights cannot be compared, and is dropped.
    """
    about = dict(about)
    with suppress(KeyError, TypeError):
        about["training"] = asdict(TrainConfig(**about["training"]))
    if "module" in about:
        del about["module"]
        about.pop("start", None)
        about["config"] = current_config(about["config"])
    kind: Any = registered_class(str(about.get("detector")))
    with suppress(AttributeError, KeyError, TypeError, ValueError):  # a class of somebody else, or a damaged record
        about["config"] = json.loads(json.dumps(asdict(kind.Config(**about["config"]))))
    return about


def what_changed(old: Record, new: Record) -> Difference | None:
    """The first difference between two descriptions of a run that decides how it ends; None where they agree.

    The descriptions of the data in words are not compared, and nothing that the older one does not hold.
    """

    def comparable(about: Record) -> Record:
        parts = {k: v for k, v in about.items() if k in old}
        return parts | {k: {**parts[k], "what": None} for k in ("data", "validation") if k in parts}

    return first_difference(comparable(old), comparable(new))


def write_record(out: Path, record: Record) -> None:
    """Write what a run is and how far it got into its folder, as durably as a checkpoint."""
    write_durably(out / "train.json", (json.dumps(record, indent=1) + "\n").encode())


def read_record(out: Path) -> Record:
    """The record of the run in a folder; empty where there is no run.

    Raises:
        ValueError: The record cannot be read, or is damaged.
    """
    path = out / "train.json"
    try:
        record = json.loads(path.read_bytes()) if path.exists() else {}
        if not isinstance(record, dict) or not {"status", "about"} <= record.keys():
            return {}  # of something else
        checked(record, RunRecord, path)
    except OSError as e:
        raise ValueError(f"Cannot read {path}: {e.strerror or e}; put that right and run it again") from e
    except (ValueError, RecursionError) as e:
        raise damaged_record(out) from e
    return record


def damaged_record(out: Path) -> ValueError:
    """The error for a run folder whose train.json nobody can go on from."""
    return ValueError(
        f"Cannot go on in {out}: its train.json is damaged; start again in another folder, or delete this one"
    )


def read_run(out: Path) -> Record:
    """The record of the run in an existing folder; empty where the folder is.

    Raises:
        ValueError: The folder holds something else, or the record cannot be read.
    """
    record = read_record(out)
    if not record and any(p.name[0] != "." for p in out.iterdir()):  # a lock and unfinished files do not count
        raise ValueError(f"{out} is not empty and holds no training: choose another folder")
    return record


def check_same_run(out: Path, record: Record, about: Record, resume: bool) -> None:
    """Refuse to touch a run unless it is to go on, and with what it was started with.

    Raises:
        ValueError: One of the two is not so; the message names the first difference.
    """
    if not resume:
        raise ValueError(
            f"{out} already holds a training ({record['status']}): go on with it by --resume, or choose another folder"
        )
    if change := what_changed(upgraded(record["about"]), about):
        raise ValueError(
            f"Cannot go on with the training in {out}: {explain(change)}; give what it was started with, "
            "or choose another folder"
        )


def open_run(out: Path, about: Record, resume: bool, warn: Callable[[str], object] = say) -> tuple[Path | None, Record]:
    """Begin a new run in a folder, or find the way back into the one that is there.

    Args:
        out: Folder of the run; it exists.
        about: What decides how the run ends, from `describe_run`.
        resume: Go on with what is there.
        warn: Is given one sentence for each damaged checkpoint.

    Returns:
        The checkpoint to go on from, or None to begin, and the record of the run.

    Raises:
        ValueError: The folder holds something else, or a run that cannot go on.
    """
    record = read_run(out)
    if record:
        check_same_run(out, record, about, resume)
        record["about"] = about  # the same, in the terms of this version
    with explained_write_errors(out):
        if not record or is_lost(out, record, warn):
            record = {"status": "not done", "about": about}
            write_record(out, record)
        for folder in (out / "checkpoints", out / "samples", out):
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)
            for part in [p for p in folder.iterdir() if OLD_PART.fullmatch(p.name)]:
                part.unlink()  # of version 0.1.0, killed while it wrote

    def check(content: Mapping[str, Any], path: Path) -> None:
        check_content(content, checkpoint_step(path))
        old = json.loads(content.get("about") or "null")  # version 0.1.0 did not say
        if old and (change := what_changed(upgraded(old), about)):
            raise ForeignCheckpointError(
                f"Cannot go on in {out}: {path.name} is of another training ({change}); delete it, or start again in "
                "another folder"
            )

    newest = newest_intact(out, warn, check)
    if newest:
        with explained_write_errors(out):
            remove_older(out, newest)  # if the run was killed between a checkpoint and this
    return newest, record


def is_lost(out: Path, record: Record, warn: Callable[[str], object]) -> bool:
    """Is the result of a run that is done missing, or not what it was?

    Raises:
        ValueError: The record does not say what the result is.
    """
    if record.get("status") != "done":
        return False
    if "result" not in record:
        raise damaged_record(out)
    if not all((out / name).exists() for name in RESULT_FILES):
        return True
    hashes = record.get("hashes", {}).items()
    wrong = [name for name, digest in hashes if not (out / name).exists() or hash_file(out / name) != digest]
    for name in wrong:
        warn(f"{out / name} is damaged, or was changed after the run; it is made again, from the last checkpoint.")
    return bool(wrong)
