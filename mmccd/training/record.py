""""""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mmccd.detector import Detector, fingerprint
from mmccd.files import write_durably
from mmccd.runtime import evenly_spaced
from mmccd.training.checkpoint import newest_good, saving
from mmccd.training_loop import TrainConfig, describe_data, without_labels
from mmccd.weights.renames import current_config


def data_record(
    data,  # any data set
) -> dict:  # ready for JSON
    "What was trained on, well enough to notice that it is another data set."
    some = without_labels(data.batch(evenly_spaced(len(data), 32)))
    check = hashlib.sha256(b"".join(some[k].contiguous().numpy().tobytes() for k in sorted(some))).hexdigest()[:16]
    return {
        "slices": len(data),
        "what": describe_data(data),
        "ids": list(getattr(data, "ids", [])),
        "recipe": getattr(data, "recipe", None),
        "check": check,
    }


def about_run(
    detector: Detector,  # to be trained
    data,  # to train on
    val,  # to validate on
    config,  # a `TrainConfig`
) -> dict:  # ready for JSON
    "All that decides what a run ends in."
    about = {
        "detector": type(detector).__name__,
        "config": asdict(detector.config),
        "training": asdict(config),
        "data": data_record(data),
        "validation": data_record(val),
        "start": fingerprint(detector),
    }
    return json.loads(json.dumps(about, default=str))


def difference(
    old: dict,  # what was
    new: dict,  # what is asked for
    where: str = "",  # name of the dicts
) -> str:  # "" where they agree
    "The first thing in which two records differ, in words."

    def short(v):
        return v if len(str(v)) < 60 else f"{str(v)[:57]}..."

    for k in dict.fromkeys([*old, *new]):
        a, b = old.get(k), new.get(k)
        if isinstance(a, dict) and isinstance(b, dict):
            words = difference(a, b, f"{where}{k}.")
        else:
            words = "" if a == b else f"{where}{k} was {short(a)} and is {short(b)} now"
        if words:
            return words
    return ""


OPTIONS = (
    "input",
    "target",
    "modalities",
    "steps",
    "batch_size",
    "lr",
    "precision",
    "accumulate",
    "checkpoint_every",
    "validate_every",
    "val_slices",
    "patience",
    "seed",
)  # of `mmccd train`


def for_user(
    words: str,  # from `difference`
) -> str:
    "What `difference` found, in words of the command line."
    (part, _, name), rest = words.split(" ", 1)[0].partition("."), words.split(" ", 1)[1]
    if part in ("data", "validation"):
        what = "learn from" if part == "data" else "validate on"
        return f"the slices to {what} are others: the store has changed since, or --val, --seed or the lists are others"
    if part == "training" and name == "steps":
        rest += ", and a run cannot be lengthened, because its learning rate depends on its length"
    if name == "frozen_decoder":
        return "--decoder " + rest.replace("False", "not given").replace("True", "given")
    if part == "start":
        return f"{words}, so the first weights are others (of another --decoder)"
    if part in ("training", "config") and name in OPTIONS:
        return f"--{name.replace('_', '-')} {rest}"
    return f"{name} (of --preset) {rest}" if part == "training" else words


def write_record(
    out: Path,  # folder of the run
    record: dict,  # ready for JSON
):
    "What the run is, and how far it got."
    write_durably(out / "train.json", (json.dumps(record, indent=1) + "\n").encode())


def read_record(
    out: Path,  # folder of the run
) -> dict:  # empty where there is no run
    "What `write_record` wrote, or a sentence that says why it cannot be read."
    path = out / "train.json"
    try:
        record = json.loads(path.read_bytes()) if path.exists() else {}
    except OSError as e:
        raise ValueError(f"Cannot read {path}: {e.strerror or e}; put that right and run it again") from e
    except ValueError as e:
        raise ValueError(
            f"Cannot go on in {out}: its train.json is damaged; start again in another folder, or delete this one"
        ) from e
    return record if isinstance(record, dict) and {"status", "about"} <= record.keys() else {}


RESULT = ("config.json", "model.safetensors")  # what `Detector.from_pretrained` needs


def read_run(
    out: Path,  # folder of the run; it exists
) -> dict:  # record of the run, empty where nothing is there
    "What a folder holds: a run, nothing, or what is refused because it belongs to something else."
    record = read_record(out)
    if not record and any(p.name[0] != "." for p in out.iterdir()):  # a lock and halves of files are nothing to lose
        raise ValueError(f"{out} is not empty and holds no training: choose another folder")
    return record


def upgrade_about(
    old: dict,  # what a run was started with, as its record says
    new: dict,  # from `about_run`
) -> dict:  # the same in the words of today
    "A record of version 0.1.0 named the module, and had another fingerprint, which says nothing today."
    if "module" not in old:
        return old
    kept = {k: v for k, v in old.items() if k != "module"}
    return kept | {"config": current_config(old["config"]), "start": new["start"]}


def open_run(
    out: Path,  # folder of the run; it exists
    about: dict,  # from `about_run`
    resume: bool,  # go on with what is there
    warn=print,  # is given one sentence where a checkpoint is damaged
) -> tuple:  # (checkpoint to go on from or None, record of the run)
    "A new run, or the way back into an old one."
    record = read_run(out)
    with suppress(KeyError, TypeError):
        record["about"]["training"] = asdict(
            TrainConfig(**record["about"]["training"])
        )  # of a version that had fewer settings
        record["about"] = upgrade_about(record["about"], about)
    if record and not resume:
        raise ValueError(
            f"{out} already holds a training ({record['status']}): go on with it by --resume, or choose another folder"
        )
    if record and (words := difference(record["about"], about)):
        raise ValueError(
            f"Cannot go on with the training in {out}: {for_user(words)}; give what it was started with, or choose another folder"
        )
    with saving(out):
        lost = record.get("status") == "done" and not all((out / name).exists() for name in RESULT)
        if not record or lost:
            write_record(out, record := {"status": "not done", "about": about})
        for folder in (out / "checkpoints", out / "samples", out):
            folder.mkdir(exist_ok=True)
            for part in folder.glob(".*.part"):
                part.unlink()  # of a process that was killed while it wrote
    return newest_good(out, warn), record
