""""""

from mmccd.runtime import counted, duration

CARD = """# {about[detector]}, {way}

**For research and teaching, not a medical device.**

| | |
|---|---|
| learned from | {about[data][what]} |
| validated and calibrated on | {about[validation][what]} |
| steps, samples | {work}, {samples} ({passes:.1f} passes over the data) |
| settings | seed {t[seed]}, AdamW {t[lr]:g}, precision {t[precision]}, average {t[ema]}; all of them in train.json |
| loss | training {last[loss]:.4g}; validation {first[val_loss]:.4g} before, {last[val_loss]:.4g} after ([curve](curve.png), log.csv) |
| threshold | {h[threshold]:.4g}; {h[fpr_reached]:.2%} of the brain of {judged} lies above it |
| made | {date} on {device}, torch {torch}, {took} |

Weights: model.safetensors, the moving average of those of the last steps. Use: `mmccd detect CASE --weights THIS_FOLDER --out results`.

Limits: it knows what it was shown. Other scanners, sequences and ages, and other ways of scaling brightness, are unknown to it, and
what is unknown it calls abnormal. The threshold keeps its promise on average over healthy slices like those above, not for a
single brain. Healthy slices of patients are not healthy people. Lesion labels served only to leave out slices that show lesion; no network saw one.
"""


def card(
    record: dict,  # of the run, with its result
    calibration: dict,  # of the detector
    first: dict,  # line of the log before the first step
) -> str:  # Markdown
    "What a stranger must know before using these weights."
    about, last = record["about"], record["result"]
    c, t, passes = about["config"], about["training"], last["samples"] / about["data"]["slices"]
    work = f"{counted(last['step'], 'step')} of {counted(t['batch_size'], 'slice')}{' (the way there; the way back was taken from another run)' * bool(c.get('frozen_decoder'))}"
    return CARD.format(
        **record,
        last=last,
        first=first,
        c=c,
        way=" to ".join(c[k] for k in ("input", "target") if k in c),
        t=t,
        passes=passes,
        h=calibration,
        took=duration(last["seconds"]),
        work=work,
        samples=counted(last["samples"], "sample"),
        judged=counted(calibration["slices"], "validation slice"),
    )
