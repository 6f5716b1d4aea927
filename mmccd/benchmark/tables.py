"""The paper's two tables from a result, with the published numbers in grey where they belong."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmccd.benchmark.measure import SHOWN
from mmccd.registry import METHODS
from mmccd.runtime import counted
from mmccd.tables import Cell, Table, TableWriter, markdown_table

Result = Mapping[str, Any]
"""What benchmark.json holds."""

_published = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def _by_method(table: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """A table of published.json as method -> column -> value."""
    return {m: dict(zip(table["columns"], values, strict=True)) for m, values in table["rows"].items()}


SOURCE: str = _published["source"]
"""Where the published numbers come from, and why ours are no rivals of theirs."""
PUBLISHED = _by_method(_published["table_one"])
"""Table 1 as published, for `PUBLISHED_PAIR`: score by method and column; ASSD in pixels of 128 a side."""
PUBLISHED_PAIR: str = _published["table_one"]["pair"]
PUBLISHED_PAIRS = _by_method(_published["table_two"])
"""Table 2 as published: Dice (oracle) by method and pair."""
TUMOURS = ("glioma", "patient")
"""The kinds of subject that the published numbers are about, more or less."""


def cell(summary: Mapping[str, Any] | None, digits: int = 2, interval: bool = False) -> str:
    """A mean for a table, with its interval if there is one and it is wanted; `-` where there is no mean."""
    if not summary or summary["mean"] is None:
        return "-"
    mean, low, high = ("" if summary[k] is None else f"{summary[k]:.{digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if interval and low else mean


def row_title(method: str, shipped: bool) -> str:
    """The first cell of a row."""
    return METHODS[method].title + ", shipped weights" * shipped


def pair_title(pair: str) -> str:
    """A pair such as `flair-t2` in words."""
    return " to ".join(pair.upper().split("-"))


def entries_of(result: Result, pair: str) -> dict[str, Any]:
    """The measured rows that say something about a pair, by key: its own, and those of its input alone."""
    x, y = pair.split("-")
    return {k: e for k, e in result["scores"].items() if e["input"] in (None, x) and e["target"] in (None, y)}


def first_kind(result: Result) -> str:
    """The kind of subject that the tables are about."""
    return result["subjects"]["rows"][0][1]


def caption(result: Result, kind: str, intervals: bool = True) -> str:
    """Whom a table is about, and how and when it was made."""
    n = sum(row[1] == kind for row in result["subjects"]["rows"])
    subjects = counted(n, "patient") if kind == "patient" else f"{counted(n, 'phantom')} ({kind})"
    made = f"preset {result['preset']}, seed {result['seed']}, {result['device']}, {result['date']}"
    return f"{subjects}, slice protocol, mean{' [95 % interval]' * intervals}; {made}."


TABLE_ONE = {
    "ap": "AP",
    "auroc": "AUROC",
    "dice": "Dice (calibrated)",
    "healthy": "healthy above",
    "dice_oracle": "Dice (oracle)",
    "jaccard_oracle": "Jaccard (oracle)",
    "precision_oracle": "precision (oracle)",
    "recall_oracle": "recall (oracle)",
    "assd_oracle": "ASSD mm (oracle)",
}
"""Columns of Table 1 and their headings."""


def measured_cells(entry: Mapping[str, Any], kind: str) -> list[str]:
    """The cells of a row of Table 1, without its title."""
    s, healthy = entry["kinds"][kind]["summary"], entry["healthy"]
    return [
        (f"{np.mean(healthy):.1%}" if healthy else "-")
        if k == "healthy"
        else cell(s[k], 1 if k == "assd_oracle" else 2, interval=k in ("ap", "dice", "dice_oracle"))
        for k in TABLE_ONE
    ]


def published_cells(method: str) -> list[Cell]:
    """The row of published numbers that stands under a method in Table 1."""
    known = PUBLISHED[method]
    values = [
        f"{known[k]:.1f} px" if k == "assd_oracle" else f"{known[k]:.2f}" if k in known else "" for k in TABLE_ONE
    ]
    return [("", "published"), *(("", v) if v else "" for v in values)]


def table_one(result: Result, kind: str | None = None, pair: str | None = None) -> Table:
    """Methods by scores for one pair; where they belong, published numbers in grey under ours.

    Args:
        result: What benchmark.json holds.
        kind: Of subject; None: the first.
        pair: Such as `flair-t2`; None: the first.
    """
    kind, pair = kind or first_kind(result), pair or result["pairs"][0]
    rows: list[list[Cell]] = []
    for e in entries_of(result, pair).values():
        rows.append([row_title(e["method"], e["shipped"]), *measured_cells(e, kind)])
        if e["method"] in PUBLISHED and pair == PUBLISHED_PAIR and kind in TUMOURS and not e["shipped"]:
            rows.append(published_cells(e["method"]))
    return Table(["method", *TABLE_ONE.values()], rows, f"{caption(result, kind)} {pair_title(pair)}.")


def table_two(result: Result, score: str = "ap", kind: str | None = None) -> Table:
    """Methods by pairs for one score; where it is Dice (oracle), published numbers in grey beside ours.

    Args:
        result: What benchmark.json holds.
        score: A column of the result.
        kind: Of subject; None: the first.
    """
    kind = kind or first_kind(result)
    published = PUBLISHED_PAIRS if score == "dice_oracle" and kind in TUMOURS else {}
    rows: list[list[Cell]] = []
    for method, shipped in dict.fromkeys((e["method"], e["shipped"]) for e in result["scores"].values()):
        row: list[Cell] = [row_title(method, shipped)]
        for pair in result["pairs"]:
            found = [e for e in entries_of(result, pair).values() if (e["method"], e["shipped"]) == (method, shipped)]
            ours = cell(found[0]["kinds"][kind]["summary"][score]) if found else "-"
            theirs = None if shipped else published.get(method, {}).get(pair)
            row.append(ours if theirs is None else (ours, f"{theirs:.2f}"))
        rows.append(row)
    names = SHOWN | {"dice": "Dice at the calibrated threshold", "dice_oracle": "Dice at the oracle threshold"}
    head = ["method", *map(pair_title, result["pairs"])]
    return Table(head, rows, f"{names[score]}: {caption(result, kind, intervals=False)}")


def all_tables(result: Result, writer: TableWriter = markdown_table) -> str:
    """Table 1 for the first pair, Table 2 for three scores, and Table 1 for every other kind of subject, as one text.

    Args:
        result: What benchmark.json holds.
        writer: `markdown_table` or `latex_table`.
    """
    tables = [
        table_one(result),
        *(table_two(result, score) for score in ("dice_oracle", "ap", "dice")),
        *(table_one(result, kind) for kind in list(result["paired"])[1:]),
    ]
    return "\n\n".join([*(t.write(writer) for t in tables), f"Grey, in brackets: {SOURCE}."]) + "\n"
