"""Train a detector in a run folder: check, begin or go on, fit, and write the result."""

import copy
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mmccd.detector import Detector
from mmccd.errors import display_name
from mmccd.extras import require
from mmccd.files import folder_lock, hash_file, output_folder, write_atomic
from mmccd.runtime import counted, cpu_threads, derive_seed, evenly_spaced, kept_random_state, pick_device, say
from mmccd.training.card import card
from mmccd.training.checkpoint import checkpoint_step, explained_write_errors
from mmccd.training.data import TrainingData, check_healthy, data_notes, subjects_of
from mmccd.training.log import Row, curve_figure, log_text
from mmccd.training.ranks import joined_ranks
from mmccd.training.record import WEIGHTS, Record, describe_run, open_run, read_run, write_record
from mmccd.training_loop import PRESETS, Batches, TrainConfig, validate, without_labels

if TYPE_CHECKING:
    from mmccd.training.callback import TrainingCallback
    from mmccd.training.fit import DetectorModule


def check_slices_fit(detector: Detector, data: TrainingData, purpose: str) -> None:
    """Refuse a data set that is empty, lacks a modality or was prepared differently from what the detector takes.

    Raises:
        ValueError: One of these is so; `purpose` ("training") says of which set.
    """
    if not len(data):
        raise ValueError(f"there is no healthy slice for {purpose}")
    c, batch = detector.config, data.batch([0])
    for modality in (c.input, getattr(c, "target", c.input), *getattr(c, "modalities", ())):
        if modality not in batch:
            present = ", ".join(k for k in batch if k not in ("brain", "lesion"))
            raise ValueError(f"the slices for {purpose} have no {modality}: choose among {present}")
    recipe = getattr(data, "recipe", None) or {}
    for key in (k for k in ("size", "fov", "normalisation") if k in recipe):
        if getattr(c, key, recipe[key]) != recipe[key]:
            raise ValueError(
                f"the detector has {key} {getattr(c, key)} and the slices for {purpose} have {recipe[key]}: "
                "make one fit the other"
            )


def check_training(detector: Detector, data: TrainingData, val: TrainingData, config: TrainConfig, device: str) -> None:
    """Refuse what cannot work or would be worthless, before anything is written.

    Raises:
        ValueError: The slices do not fit the detector, `device` (cpu, cuda, mps) does not support the precision, the
            detector has nothing to train, a slice shows lesion, or a subject is in both sets.
    """
    for purpose, part in (("training", data), ("validation", val)):
        check_slices_fit(detector, part, purpose)
    if config.precision == "fp16" and device != "cuda":
        raise ValueError(f"fp16 needs a CUDA GPU and this is {device}: choose --precision 32 or bf16")
    if not any(p.requires_grad for p in detector.parameters()):
        raise ValueError(f"{type(detector).__name__} has nothing to train: calibrate it on healthy slices instead")
    check_healthy(data, val)


def opening_lines(
    data: TrainingData, val: TrainingData, config: TrainConfig, checkpoint: Path | None, resume: bool
) -> list[str]:
    """What a run begins with, in words: how much there is to learn from and to validate on, and where it goes on."""
    n_train, n_val = len(subjects_of(data)), len(subjects_of(val))
    of_train, of_val = (f" of {counted(n, 'subject')}" if n else "" for n in (n_train, n_val))
    lines = [f"learning from {counted(len(data), 'healthy slice')}{of_train}, validating on {len(val)}{of_val}"]
    lines += data_notes(data, val)
    if checkpoint:
        lines.append(f"going on from step {checkpoint_step(checkpoint)} of {config.steps}")
    elif resume:
        lines.append("no checkpoint yet, starting from the beginning")
    return lines


def run_fit(module: "DetectorModule", callback: "TrainingCallback", device: str, checkpoint: Path | None) -> None:
    """Let Lightning fit the module, from a checkpoint if there is one; several processes do so together.

    Raises:
        KeyboardInterrupt: It was stopped before its last step; the message says where.
    """
    from mmccd.training.fit import make_trainer, quiet_lightning

    steps = module.config.steps
    try:
        with quiet_lightning():
            make_trainer(callback.out, module.config, device, callback, module.ranks).fit(module, ckpt_path=checkpoint)
    except SystemExit:  # how Lightning passes a KeyboardInterrupt on
        raise KeyboardInterrupt("stopped at once; go on with --resume") from None
    except Exception as e:
        if checkpoint is None or callback.progress or isinstance(e, OSError):  # it began, or the disk is at fault
            raise
        raise ValueError(
            f"Cannot go on from {checkpoint}: it is whole, but does not fit this training; delete it to go on from "
            "what was before it, or start again in another folder"
        ) from e
    finally:
        if callback.progress:
            callback.progress.close()
    if callback.stop_requested and callback.step < steps and not callback.converged:
        raise KeyboardInterrupt(f"stopped at step {callback.step} of {steps}; go on with --resume")


def finish(out: Path, record: Record, detector: Detector, rows: list[Row], device: str) -> Record:
    """Write weights, log, curve and card of a run that is done.

    Args:
        out: Folder of the run.
        record: Of the run.
        detector: With the averaged weights, calibrated.
        rows: Of the log.
        device: Where it was trained.

    Returns:
        The record, completed by the result.
    """
    from mmccd.viz import save_png

    if detector.calibration is None:
        raise ValueError("a run that is done has been validated, and this one has not")
    record |= {
        "status": "done",
        "device": device,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "result": rows[-1],
    }
    with explained_write_errors(out):
        detector.save_pretrained(out)
        write_atomic(out / "log.csv", log_text(rows).encode())
        record["hashes"] = {name: hash_file(out / name) for name in (WEIGHTS, "log.csv")}
        save_png(curve_figure(rows), out / "curve.png")
        write_atomic(out / "README.md", card(record, detector.calibration, rows[0]).encode())
        write_record(out, record)  # last: from here on the run counts as done
    return record


def learn_expected_error(detector: Detector, val: TrainingData, config: TrainConfig, step: int) -> Row:
    """Learn the expected error of a detector that divides by it, and set its threshold anew.

    Args:
        detector: Trained.
        val: Healthy slices that it did not learn from; the threshold comes from the same ones.
        config: Of the run; its seed decides what is drawn.
        step: How long it was trained, for the record.

    Returns:
        Validation loss and threshold; empty where the detector expects nothing.
    """
    from mmccd.error_map import ReconstructionDetector, fit_expected_error

    if not isinstance(detector, ReconstructionDetector) or not detector.config.error.expected:
        return {}
    few = evenly_spaced(len(val), getattr(type(detector), "calibration_slices", config.val_slices))
    with kept_random_state():
        torch.manual_seed(seed := derive_seed(config.seed, "expected error"))
        generator = torch.Generator(detector.device).manual_seed(seed)
        fit_expected_error(detector, without_labels(val.batch(few), detector.device), generator)
    return validate(detector, val, config, step=step)


@contextmanager
def locked_run_folder(out: str | Path) -> Generator[Path]:
    """The folder of a run, made where missing and locked against other processes.

    Raises:
        ValueError: It holds something else, cannot be written, or another process is training in it.
    """
    with output_folder(out) as folder:
        read_run(folder)  # before a lock is left in a folder that is not a run's
        with folder_lock(folder, "training"):
            yield folder


def begin(
    out: Path, about: Record, data: TrainingData, val: TrainingData, config: TrainConfig, resume: bool, progress: bool
) -> tuple[Path | None, Record]:
    """Open the run and say what it begins with; returns the checkpoint to go on from, or None, and its record."""
    checkpoint, record = open_run(out, about, resume)
    if record["status"] == "done":
        say(f"the training in {out} is done already")
        return checkpoint, record
    record |= {"notes": notes} if (notes := data_notes(data, val)) else {}
    if progress:
        lines = map(display_name, opening_lines(data, val, config, checkpoint, resume))
        print(*lines, sep="\n", file=sys.stderr, flush=True)
    return checkpoint, record


def train(
    detector: Detector,
    data: TrainingData,
    val: TrainingData,
    out: str | Path,
    config: TrainConfig = PRESETS["tiny"],
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    workers: int | None = None,
    threads: int = 1,
) -> Record:
    """Train a copy of a detector; the run folder can be loaded with `Detector.from_pretrained`.

    On a CPU, a run that was interrupted and resumed ends with the same weights, bit for bit, as one that was not. Under
    torchrun or srun all processes call this; they share each batch, and the first one writes.

    Args:
        detector: Has a `loss`. Training starts from its weights and leaves them as they are.
        data: Healthy slices to train on.
        val: Healthy slices of other subjects, for validation and for the threshold.
        out: Folder of the run; made where missing.
        config: All settings; see `PRESETS` and `make_config`.
        resume: Go on with the run in `out`; starts it where there is none.
        device: auto, cpu, cuda or mps.
        progress: Show progress on standard error.
        workers: Processes that read slices ahead; None: none for slices in memory, else as the cores allow.
        threads: Of the arithmetic on a CPU; with more than one, the last digits depend on how many.

    Returns:
        The record of the run, as in train.json.

    Raises:
        MissingExtraError: Lightning is not installed.
        ValueError: The training cannot work, `out` holds something else, a file cannot be written, or the training
            has diverged.
        KeyboardInterrupt: It was stopped; `resume=True` goes on.
    """
    require("training", "lightning")
    check_training(detector, data, val, config, device := pick_device(device))
    about = describe_run(detector, data, val, config)
    arithmetic = cpu_threads(threads) if device == "cpu" else nullcontext()
    with joined_ranks(device) as ranks, ExitStack() as folder, arithmetic:
        Batches(data, config, ranks=ranks.world)  # refuses a batch that cannot be shared
        out = ranks.first_only(lambda: folder.enter_context(locked_run_folder(out)))
        checkpoint, record = ranks.first_only(lambda: begin(out, about, data, val, config, resume, progress))
        if record["status"] == "done":
            return record
        from mmccd.training.callback import TrainingCallback
        from mmccd.training.fit import DetectorModule

        module = DetectorModule(copy.deepcopy(detector), data, config, about, workers, ranks)
        callback = TrainingCallback(out, val, progress, ranks)
        run_fit(module, callback, device, checkpoint)

        def end() -> Record:
            module.averaged.calibration = callback.calibration
            callback.rows[-1] |= learn_expected_error(module.averaged, val, config, callback.step)
            return finish(out, record, module.averaged, callback.rows, device)

        return ranks.first_only(end)
