"""Scores as text for a terminal: two tables, and around them what they do not show."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmccd import summary
from mmccd.detection.calibration import stored_postprocessing
from mmccd.tables import align_table

SHOWN = 5  # names of cases without a map, at most


def row_title(result: Mapping[str, Any]) -> str:
    """Return what made the maps, and of what; an ensemble takes of each case what it has."""
    several = "+" in (result["input"] or "")
    return (result["detector"] or "maps") + (" " if several else f" on {result['input'] or 'unknown input'}").rstrip()


def score_tables(result: Mapping[str, Any]) -> list[str]:
    """Return the tables of the detector and of the floor, where everything is marked, and Dice by size.

    Args:
        result: from `mmccd.detection.evaluate`, with subjects that have a lesion.
    """
    both = {
        row_title(result): result["scores"],
        "everything positive": result["floor"],
    }
    table = align_table(summary.format_table(both))
    if len(result["scores"]["subjects"]) == 1:
        table = table.replace(", mean [95 % bootstrap interval]", "") + "\nOne subject: no interval."
    if result["scores"]["threshold"] is None:
        return [table, "No detect.json, so no calibrated threshold: Dice and FPR stay empty."]
    more = align_table(summary.format_table(both, summary.MORE)).split("\n", 1)[1]
    sizes = [
        f"{name} {v['mean']:.2f} [{v['low']:.2f}, {v['high']:.2f}] (n={v['n']})"
        for name, v in result["by_size"].items()
        if v["n"] > 2
    ]
    return [table, more] + [f"\nDice by size of the lesion: {'; '.join(sizes)}"] * (len(sizes) > 1)


def alarm_text(alarm: Mapping[str, Any]) -> str:
    """Return amounts of false alarm in words.

    Args:
        alarm: `fpr`, `volume_ml`, `cm2_a_slice` and `false_a_slice`, as `mmccd.detection.evaluation.false_alarm` has
            them.
    """
    if alarm["fpr"] is None:
        return "no calibrated threshold"
    return (
        f"{alarm['fpr']:.2%} of the brain ({alarm['volume_ml']:.1f} ml) called abnormal; "
        f"a slice {alarm['cm2_a_slice']:.2f} cm2 in {alarm['false_a_slice']:.1f} pieces"
    )


def healthy_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a line for each case without a lesion, and their mean."""
    lines = [f"{h['id']} has no lesion: {alarm_text(h)}" for h in result["healthy"]]
    if len(lines) > 1:
        mean = {k: v["mean"] for k, v in result["healthy_summary"].items()}
        lines.append(f"mean of {len(lines)} without lesion: {alarm_text(mean)}")
    return lines


def note_lines(result: Mapping[str, Any]) -> list[str]:
    """Return what the tables do not show: other post-processing than at calibration, and cases left out."""
    lines = []
    calibration, post = result.get("calibration") or {}, stored_postprocessing(result)
    made, now = (replace(p, smallest=0.0) for p in (stored_postprocessing(calibration), post))
    if calibration.get("threshold") is not None and made != now:  # dropped pieces keep the promise
        lines.append(
            f"Beware: the threshold was calibrated on maps after {made}, not after {now}, so FPR and Dice are not at "
            "the promised rate."
        )
    if post:
        lines.append(f"Maps after: {post}.")
    if result.get("only", "*") != "*":
        lines.append(f"Only cases called {result['only']}.")
    if missing := result["without_map"]:
        more = f" and {len(missing) - SHOWN} more" if missing[SHOWN:] else ""
        lines.append(f"Not in these numbers, since there is no map: {', '.join(missing[:SHOWN])}{more}.")
    return lines


def score_text(result: Mapping[str, Any]) -> str:
    """Return the scores of a folder of results as text of several lines.

    Args:
        result: from `mmccd.detection.evaluate`.
    """
    tables = score_tables(result) if result["scores"] else []
    return "\n".join([*tables, *healthy_lines(result), *note_lines(result)])
