""""""

import copy
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from mmccd.detector import Detector
from mmccd.files import run_lock, write_atomic
from mmccd.runtime import counted
from mmccd.training.callback import TrainingCallback
from mmccd.training.card import card
from mmccd.training.checkpoint import saving
from mmccd.training.fit import Fit, make_lightning_module, make_trainer, quiet
from mmccd.training.log import curve_figure, log_text
from mmccd.training.record import about_run, open_run, read_run, write_record
from mmccd.training_loop import PRESETS


def check_healthy(
    data,  # to train on
    val,  # to validate on
):
    "Refuse lesions, and subjects on both sides, where the data sets say whose slices they are and what they show."
    from mmccd.cases.subjects import subject_of

    for name, d in (("training", data), ("validation", val)):
        for id, area in ((r.id, r.lesion_cm2) for r in getattr(d, "rows", ()) if hasattr(r, "lesion_cm2")):
            if area is None:
                raise ValueError(
                    f"a slice of {id} for {name} is not known to be healthy: prepare it with a segmentation, or with --assume-healthy if it is"
                )
            if area:
                raise ValueError(
                    f"a slice of {id} for {name} shows lesion: train and validate on healthy slices only (tumour_free=True)"
                )
    learn, judge = ({subject_of(str(i)) for i in getattr(d, "ids", ())} for d in (data, val))
    if both := learn & judge:
        raise ValueError(
            f"{min(both)} is among the subjects for training and for validation: split by subject (mmccd.slices.split_subjects)"
        )


def check_training(
    detector: Detector,  # to be trained
    data,  # to train on
    val,  # to validate on
    config,  # a `TrainConfig`
    device: str,  # cpu, cuda or mps
):
    "Refuse what cannot work before anything is written."
    c = detector.config
    for name, d in (("training", data), ("validation", val)):
        if not len(d):
            raise ValueError(f"there is no healthy slice for {name}")
        missing = [
            m
            for m in dict.fromkeys((c.input, getattr(c, "target", c.input), *getattr(c, "modalities", ())))
            if m not in d.batch([0])
        ]
        if missing:
            raise ValueError(
                f"the slices for {name} have no {missing[0]}: choose among {', '.join(k for k in d.batch([0]) if k not in ('brain', 'lesion'))}"
            )
        for k, made in (getattr(d, "recipe", None) or {}).items():  # of a store
            if k in ("size", "normalisation") and getattr(c, k, made) != made:
                raise ValueError(
                    f"the detector has {k} {getattr(c, k)} and the slices for {name} have {made}: make one fit the other"
                )
    if config.precision == "fp16" and device != "cuda":
        raise ValueError(f"fp16 needs a CUDA GPU and this is {device}: choose --precision 32 or bf16")
    if not any(p.requires_grad for p in detector.parameters()):
        raise ValueError(f"{type(detector).__name__} has nothing to train: calibrate it on healthy slices instead")
    check_healthy(data, val)


def finish(
    out: Path,  # folder of the run
    record: dict,  # of the run
    detector: Detector,  # averaged and calibrated
    rows: list,  # of the log
    device: str,  # where it ran
) -> dict:  # the record, completed
    "Weights, log, curve and card of a run that is done."
    from mmccd.viz import save_png

    record |= {
        "status": "done",
        "device": device,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "result": rows[-1],
    }
    with saving(out):
        detector.save_pretrained(out)
        write_atomic(out / "log.csv", log_text(rows).encode())
        save_png(curve_figure(rows), out / "curve.png")
        write_atomic(out / "README.md", card(record, detector.calibration, rows[0]).encode())
        write_record(out, record)  # last: from here on the run counts as done
    return record


def opening(
    data,  # to train on
    val,  # to validate on
    config,  # a `TrainConfig`
    checkpoint,  # path to go on from, or None
    resume,  # was going on asked for?
) -> list[str]:  # lines
    "What a training begins with, in words."
    from mmccd.cases.subjects import subject_of

    heads = [len({subject_of(str(i)) for i in getattr(d, "ids", ())}) for d in (data, val)]
    of = [f" of {counted(n, 'subject')}" if n else "" for n in heads]
    lines = [f"learning from {counted(len(data), 'healthy slice')}{of[0]}, validating on {len(val)}{of[1]}"]
    if 0 < heads[1] < 3:
        lines.append(
            f"the threshold rests on {counted(heads[1], 'validation subject')} only, and may be far off for others: better validate on 3 or more (--val 3)"
        )
    if checkpoint:
        lines.append(f"going on from step {int(checkpoint.stem[5:])} of {config.steps}")
    elif resume:
        lines.append("no checkpoint yet, starting from the beginning")
    return lines


def run_fit(
    fit,  # a `Fit` on Lightning's LightningModule
    keeper,  # a `Keeper` on Lightning's Callback
    device: str,  # cpu, cuda or mps
    checkpoint,  # path to go on from, or None
):
    "Let Lightning fit; Ctrl-C ends as a KeyboardInterrupt that says where."
    try:
        with quiet():
            make_trainer(keeper.out, fit.settings, device, keeper).fit(fit, ckpt_path=checkpoint)
    except SystemExit:
        raise KeyboardInterrupt("stopped at once; go on with --resume") from None  # Lightning's way to say it
    finally:
        if keeper.bar:
            keeper.bar.close()
    if keeper.asked and keeper.step < fit.settings.steps and not keeper.enough(fit):
        raise KeyboardInterrupt(f"stopped at step {keeper.step} of {fit.settings.steps}; go on with --resume")


@contextmanager
def own_run(
    out,  # folder of the run
):
    "Refuse somebody else's folder, and keep other processes out of this one."
    read_run(Path(out))  # before a lock is left in it
    with run_lock(out):
        yield


def train(
    detector: Detector,  # with a `loss`; its weights are where the training starts, and stay as they are
    data,  # healthy slices to learn from: `len` and `batch(indices)`
    val,  # healthy slices of other subjects
    out,  # folder of the run; made where missing
    config=PRESETS["tiny"],  # a `TrainConfig`
    resume: bool = False,  # go on with the run in `out`; starts it where there is none
    device: str = "auto",  # auto, cpu, cuda or mps
    progress: bool = True,  # on standard error
) -> dict:  # record of the run, as in train.json
    "Train a detector; the run folder can be loaded with `Detector.from_pretrained`."
    import lightning.pytorch as L

    from mmccd.files import output_folder
    from mmccd.runtime import pick_device, say, single_thread

    check_training(detector, data, val, config, device := pick_device(device))
    about = about_run(detector, data, val, config)
    with output_folder(out) as out, own_run(out), single_thread() if device == "cpu" else nullcontext():
        checkpoint, record = open_run(out, about, resume, say)
        if record["status"] == "done":
            say(f"the training in {out} is done already")
            return record
        for line in opening(data, val, config, checkpoint, resume) if progress else ():
            print(line, file=sys.stderr, flush=True)
        fit, keeper = (
            make_lightning_module(L.LightningModule, Fit)(copy.deepcopy(detector), data, config),
            make_lightning_module(L.Callback, TrainingCallback)(out, val, progress),
        )
        run_fit(fit, keeper, device, checkpoint)
        fit.ema.module.calibration = keeper.calibration
        return finish(out, record, fit.ema.module, keeper.rows, device)
