""""""

from dataclasses import replace

from mmccd import scoring
from mmccd.detection.calibration import stored_postprocessing
from mmccd.tables import align_table


def score_tables(
    result: dict,  # from `evaluate`, with subjects that have a lesion
) -> list[str]:  # parts of the text
    "The detector and the floor, side by side."
    both = {
        f"{result['detector'] or 'maps'} on {result['input'] or 'unknown input'}": result["scores"],
        "everything positive": result["floor"],
    }
    table, few = align_table(scoring.format_table(both)), len(result["scores"]["subjects"]) == 1
    if few:
        table = table.replace(", mean [95 % bootstrap interval]", "") + "\nOne subject: no interval."
    if result["scores"]["threshold"] is None:
        return [table, "No detect.json, so no calibrated threshold: Dice and FPR stay empty."]
    more = align_table(scoring.format_table(both, scoring.MORE)).split("\n", 1)[1]
    sizes = [
        f"{name} {v['mean']:.2f} [{v['low']:.2f}, {v['high']:.2f}] (n={v['n']})"
        for name, v in result["by_size"].items()
        if v["n"] > 2
    ]
    return [table, more] + [f"\nDice by size of the lesion: {'; '.join(sizes)}"] * (len(sizes) > 1)


def alarm_text(
    h: dict,  # fpr, volume_ml, cm2_a_slice, false_a_slice
) -> str:
    "Amounts of false alarm in words."
    if h["fpr"] is None:
        return "no calibrated threshold"
    return f"{h['fpr']:.2%} of the brain ({h['volume_ml']:.1f} ml) called abnormal; a slice {h['cm2_a_slice']:.2f} cm2 in {h['false_a_slice']:.1f} pieces"


def score_text(
    result: dict,  # from `evaluate`
) -> str:  # several lines
    "What a run is worth, as text."
    parts = score_tables(result) if result["scores"] else []
    parts += [f"{h['id']} has no lesion: {alarm_text(h)}" for h in result["healthy"]]
    if len(result["healthy"]) > 1:
        parts.append(
            f"mean of {len(result['healthy'])} without lesion: {alarm_text({k: v['mean'] for k, v in result['healthy_summary'].items()})}"
        )
    made, now = (
        replace(stored_postprocessing(r), smallest=0.0) for r in (result.get("calibration"), result)
    )  # dropped pieces keep the promise
    if (result.get("calibration") or {}).get("threshold") is not None and made != now:
        parts.append(
            f"Beware: the threshold was calibrated on maps after {made}, not after {now}, so FPR and Dice are not at the promised rate."
        )
    if post := stored_postprocessing(result):
        parts.append(f"Maps after: {post}.")
    if result.get("only", "*") != "*":
        parts.append(f"Only cases called {result['only']}.")
    if missing := result["without_map"]:
        parts.append(
            f"Not in these numbers, since there is no map: {', '.join(missing[:5])}{f' and {len(missing) - 5} more' if missing[5:] else ''}."
        )
    return "\n".join(parts)
