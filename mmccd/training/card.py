"""The README of a run folder: what a stranger has to know before using the weights in it."""

from collections.abc import Mapping
from typing import Any

from mmccd.runtime import counted, duration

CARD = """# {about[detector]}, {modalities}

**For research and teaching, not a medical device.**

| | |
|---|---|
| learned from | {about[data][what]} |
| validated and calibrated on | {about[validation][what]} |
| steps, samples | {work}, {samples} ({passes:.1f} passes over the data) |
| settings | {settings} |
| loss | {loss} |
| threshold | {threshold} |
| made | {date} on {device}, torch {torch}, {took} |

Weights: model.safetensors, the moving average of those of the last steps.
Use: `mmccd detect CASE --weights THIS_FOLDER --out results`.

Limits: scanners, sequences, ages and ways of scaling brightness that are not in the training data are unknown to this
detector, and what is unknown to it gets a high score. The false-positive rate of the threshold holds on average over
healthy slices like those above, not for a single brain. Healthy slices of patients are not healthy people.
Lesion labels served only to leave out slices that show lesion; no network saw one.
"""


def card(record: Mapping[str, Any], calibration: Mapping[str, Any], first_row: Mapping[str, Any]) -> str:
    """The card of a run in Markdown.

    Args:
        record: Of the run, with its result.
        calibration: Of the trained detector.
        first_row: Line of the log before the first step.
    """
    about, last = record["about"], record["result"]
    config, training = about["config"], about["training"]
    work = f"{counted(last['step'], 'step')} of {counted(training['batch_size'], 'slice')}"
    if config.get("frozen_decoder"):
        work += " (from input to target only: the decoder, from target back to input, was taken from another run)"
    validation_slices = counted(calibration["slices"], "validation slice")
    return CARD.format(
        **record,
        modalities=" to ".join(config[k] for k in ("input", "target") if k in config),
        work=work,
        samples=counted(last["samples"], "sample"),
        passes=last["samples"] / about["data"]["slices"],
        settings=f"seed {training['seed']}, AdamW {training['lr']:g}, precision {training['precision']}, "
        f"average {training['ema']}; all of them in train.json",
        loss=f"training {last['loss']:.4g}; validation {first_row['val_loss']:.4g} before, "
        f"{last['val_loss']:.4g} after ([curve](curve.png), log.csv)",
        threshold=f"{calibration['threshold']:.4g}; {calibration['fpr_reached']:.2%} of the brain of "
        f"{validation_slices} lies above it"
        + ", from which the error to be expected was learned too"
        * config.get("error", {}).get("expected", False),
        took=duration(last["seconds"]),
    )
