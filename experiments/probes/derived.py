"""What follows from the scores of all rows: differences by subject, scores by size of the lesion, costs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evidence import FLOOR, KINDS, difference, subject_rows

from mmccd.detector import load_detector
from mmccd.summary import SIZES
from mmccd.summary import by_size as score_by_size
from mmccd.unet import count_parameters


def paired(measured, contrasts: list, group: str = "pair", labels: dict | None = None) -> dict[str, dict]:
    """By kind of lesion and group of rows: how much better one method scores than another, subject by subject.

    Args:
        contrasts: Pairs of methods, the better one expected first.
        group: "pair": rows of one input and target, and single ones of that input; "input": all rows of one input.
        labels: How methods are called, where not by their own names.
    """
    methods, labels = measured.result["methods"], labels or {}
    ends = {k: (m["input"], m["target"]) for k, m in methods.items() if m["input"]}
    groups = dict.fromkeys("-".join(e) if group == "pair" else e[0] for e in ends.values() if group == "input" or e[1])

    def inside(key: str, name: str) -> bool:
        x, y = ends[key]
        return x == name.split("-")[0] and (group == "input" or y is None or f"{x}-{y}" == name)

    def label(key: str) -> str:
        method, of = key.rsplit(" ", 1)
        return key if group == "input" and "-" in of else labels.get(method, method)

    out: dict[str, dict] = {}
    for kind, found in measured.result["kinds"].items():
        for name in groups if found else ():
            keys = {m: [k for k in ends if k.rsplit(" ", 1)[0] == m and inside(k, name)] for c in contrasts for m in c}
            out.setdefault(kind, {})[name] = {
                f"{label(a)} - {label(b)}": difference(measured.result, kind, a, b)
                for one, other in contrasts
                for a in keys[one]
                for b in keys[other]
            }
    return out


def by_size(measured) -> dict[str, dict]:
    """All kinds of lesion together, by area of the lesion in the slice: how many subjects, and each row's scores."""
    result, bins = measured.result, SIZES["slice"]
    sizes = [(r[2], kind) for kind in KINDS for r in result["subjects"][kind]["rows"]]
    out: dict[str, dict] = {
        name: {"subjects": dict(Counter(kind for size, kind in sizes if least <= size < most))}
        for name, (least, most) in bins.items()
    }
    for key in result["methods"]:
        rows = [r for kind, found in result["kinds"].items() if key in found for r in subject_rows(result, kind, key)]
        for c in ("ap", "dice_oracle"):
            for name, score in score_by_size(rows, c, [r["lesion_cm2"] for r in rows], bins).items():
                out[name].setdefault(key, {})[c] = score
    return out


def evaluations(measured) -> dict[str, float]:
    """Network evaluations for a slice, mean over the subjects, by method (of its first row)."""
    out: dict[str, float] = {}
    for key, n in measured.costs.items():
        out.setdefault(key if key == FLOOR else key.rsplit(" ", 1)[0], n)
    return out


def networks(measured) -> dict[str, dict[str, Any]]:
    """What each trained network is: parameters, those that were trained for it, steps, samples, evaluations a slice."""
    out, costs = {}, evaluations(measured)
    for key, m in measured.result["methods"].items():
        name, _, ends = key.rpartition(" ")
        if name in out or "trained" not in m:
            continue
        d = load_detector(f"{name}-{ends}")
        own = d.f if hasattr(d, "f") else d
        counts = {"parameters": count_parameters(d), "trained": count_parameters(own)}
        out[name] = counts | m["trained"] | {"evaluations": costs[name]}
    return out
