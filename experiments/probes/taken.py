"""Rows of other results beside those that are measured: the same subjects and the same weights, not measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evidence import PAIRS, Row

from mmccd.detector import fingerprint

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def check_fit(result: dict, old: dict, file: str) -> None:
    """Refuse a result on other subjects, or with another rule for the threshold."""
    for what in ("seed", "fpr", "subjects", "left_out"):
        if result[what] != old[what]:
            raise ValueError(f"{file} is not of the same {what}: make it again first")
    if result["healthy"]["ids"] != old["healthy"]["ids"]:
        raise ValueError(f"{file} is not of the same healthy subjects: make it again first")


def add_rows(result: dict, costs: dict[str, float], rows: list[Row], sources: dict[str, str], pairs=PAIRS) -> tuple:
    """A result and its costs with the rows of further methods, in the order of the table.

    Args:
        sources: By method, the file in data/results that its rows are taken from. The first file that knows the
            evaluations of a method says what it costs.

    Raises:
        ValueError: A file is about other subjects, or its weights are not the packaged ones.
    """
    old = {file: json.loads((RESULTS / file).read_text()) for file in dict.fromkeys(sources.values())}
    for file, r in old.items():
        check_fit(result, r, file)
    order = [*dict.fromkeys(r.method for r in rows), *sources]
    costs = dict(costs)
    for method, file in sources.items():
        r = old[file]
        for row in (Row(method, "", x, y) for x, y in pairs):
            if r["methods"].get(row.key, {}).get("fingerprint") != fingerprint(row.load()):
                raise ValueError(f"{row.key} in {file} is not of the packaged weights: make it again first")
            result["methods"][row.key] = r["methods"][row.key] | {"taken_from": file, "every": r.get("every", 1)}
            for kind, found in result["kinds"].items():
                if found:
                    found[row.key] = r["kinds"][kind][row.key]
            for part in ("shares", "summary"):
                result["healthy"][part][row.key] = r["healthy"][part][row.key]
            costs[row.key] = next(o["evaluations"][method] for o in old.values() if "evaluations" in o)

    def place(key: str) -> tuple[Any, ...]:
        m = result["methods"][key]
        method = key if m["input"] is None else key.rsplit(" ", 1)[0]
        return m["input"] is not None, m["input"] or "", order.index(method), m["target"] or ""

    def ordered(found: dict) -> dict:
        return {k: found[k] for k in sorted(found, key=place)}

    result["methods"] = ordered(result["methods"])
    result["kinds"] = {k: ordered(v) for k, v in result["kinds"].items()}
    result["healthy"] |= {k: ordered(result["healthy"][k]) for k in ("shares", "summary")}
    return result, {k: costs[k] for k in sorted(costs, key=place)}
