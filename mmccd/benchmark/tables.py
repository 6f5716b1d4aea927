""""""

import numpy as np

from mmccd.benchmark.measure import AT_ORACLE, SHOWN
from mmccd.benchmark.plan import WAYS
from mmccd.registry import METHODS
from mmccd.runtime import counted
from mmccd.tables import markdown

SOURCE = "Liang et al. 2023, the authors' poster: BraTS2021, 139 patients, threshold chosen on the labels they are scored with; other data, other protocol"


TUMOURS = ("glioma", "patient")  # kinds that the published numbers are about, more or less


HEADINGS = ("dice_oracle", "auroc", "jaccard_oracle", "precision_oracle", "recall_oracle", "assd_oracle")


PUBLISHED = {  # Table 1 in the order of HEADINGS (ASSD in pixels of 128 a side), Table 2 Dice
    "ae": (0.2249, 0.4621, 0.1513, 0.2190, 0.2636, 3.5936),
    "vae": (0.2640, 0.4739, 0.1910, 0.2717, 0.2837, 3.513),
    "dae": (0.4619, 0.9298, 0.3291, 0.4346, 0.5477, 7.5508),
    "ddpm": (0.5662, 0.9267, 0.4172, 0.5958, 0.5949, 6.5021),
    "cycle": (0.5810, 0.9409, 0.4470, 0.6545, 0.5823, 6.3487),
    "mmccd": (0.6092, 0.9409, 0.4682, 0.6505, 0.6336, 6.1171),
}


PUBLISHED_PAIRS = {
    m: dict(zip(map("-".join, WAYS), v))
    for m, v in {
        "dae": (0.4619, 0.4619, 0.2803, 0.2803, 0.2325, 0.2325),
        "ddpm": (0.5662, 0.5662, 0.4633, 0.4633, 0.2865, 0.2865),
        "cycle": (0.5810, 0.5732, 0.4819, 0.4036, 0.3262, 0.3906),
        "mmccd": (0.6092, 0.6090, 0.4873, 0.4993, 0.3337, 0.4239),
    }.items()
}


def cell(
    s,  # n, mean, low, high
    digits=2,  # after the point
    wide=False,  # with the interval
) -> str:
    "A number for a table."
    if not s or s["mean"] is None:
        return "-"
    return f"{s['mean']:.{digits}f}" + (
        f" [{s['low']:.{digits}f}, {s['high']:.{digits}f}]" if wide and s["low"] is not None else ""
    )


def line_name(
    e,  # one of a result's scores
) -> str:
    "What the line is called."
    return METHODS[e["method"]].title + ", shipped weights" * e["shipped"]


def of_pair(
    result,  # what benchmark.json holds
    pair: str,  # such as "flair-t2"
) -> dict:  # by key
    "The lines that say something about a pair: its own, and those of its input."
    x, y = pair.split("-")
    return {k: e for k, e in result["scores"].items() if e["input"] in (None, x) and e["target"] in (None, y)}


def first_kind(
    result,  # what benchmark.json holds
) -> str:
    "The kind of subject that the tables are about."
    return result["subjects"]["rows"][0][1]


def caption(
    result,  # what benchmark.json holds
    kind,  # of subject
    wide=True,  # are there intervals?
) -> str:
    "Whom a table is about."
    n = sum(r[1] == kind for r in result["subjects"]["rows"])
    return f"{counted(n, 'phantom' if kind != 'patient' else 'patient')}{f' ({kind})' * (kind != 'patient')}, slice protocol, mean{' [95 % interval]' * wide}; preset {result['preset']}, seed {result['seed']}, {result['device']}, {result['date']}."


def table_one(
    result,  # what benchmark.json holds
    kind=None,  # of subject; None: the first
    pair=None,  # such as "flair-t2"; None: the first
) -> tuple:  # (caption, head, rows); a cell is text, or (ours, published)
    "Methods and scores for one pair; published numbers in grey under ours."
    kind, pair = kind or first_kind(result), pair or result["pairs"][0]
    head = [
        "method",
        "AP",
        "AUROC",
        "Dice (calibrated)",
        "healthy above",
        "Dice (oracle)",
        "Jaccard (oracle)",
        "precision (oracle)",
        "recall (oracle)",
        "ASSD mm (oracle)",
    ]
    rows = []
    for e in of_pair(result, pair).values():
        s, share = e["kinds"][kind]["summary"], np.mean(e["healthy"]) if e["healthy"] else None
        own = [
            cell(s["ap"], 2, True),
            cell(s["auroc"]),
            cell(s["dice"], 2, True),
            "-" if share is None else f"{share:.1%}",
            cell(s["dice_oracle"], 2, True),
            *(cell(s[f"{k}_oracle"], 1 if k == "assd" else 2) for k in AT_ORACLE),
        ]
        rows.append([line_name(e), *own])
        if e["method"] in PUBLISHED and pair == "flair-t2" and kind in TUMOURS and not e["shipped"]:
            said = dict(zip(HEADINGS, PUBLISHED[e["method"]]))
            theirs = [None, said["auroc"], None, None, *(said[k] for k in HEADINGS if k != "auroc")]
            rows.append(
                [
                    ("", "published"),
                    *("" if v is None else ("", f"{v:.1f} px" if v > 1 else f"{v:.2f}") for v in theirs),
                ]
            )
    return f"{caption(result, kind)} {' to '.join(pair.upper().split('-'))}.", head, rows


def table_two(
    result,  # what benchmark.json holds
    score="ap",  # a column
    kind=None,  # of subject; None: the first
) -> tuple:  # (caption, head, rows)
    "Methods and pairs; where the score is Dice (oracle), published numbers in grey beside ours."
    kind, rows = kind or first_kind(result), []
    known = PUBLISHED_PAIRS if score == "dice_oracle" and kind in TUMOURS else {}
    lines = dict.fromkeys((e["method"], e["shipped"]) for e in result["scores"].values())
    for m, shipped in lines:
        row = [METHODS[m].title + ", shipped weights" * shipped]
        for pair in result["pairs"]:
            found = [e for e in of_pair(result, pair).values() if (e["method"], e["shipped"]) == (m, shipped)]
            said = None if shipped else known.get(m, {}).get(pair)
            own = cell(found[0]["kinds"][kind]["summary"][score]) if found else "-"
            row.append(own if said is None else (own, f"{said:.2f}"))
        rows.append(row)
    names = dict(SHOWN) | {"dice": "Dice at the calibrated threshold", "dice_oracle": "Dice at the oracle threshold"}
    return (
        f"{names[score]}: {caption(result, kind, False)}",
        ["method", *(" to ".join(p.upper().split("-")) for p in result["pairs"])],
        rows,
    )


def all_tables(
    result,  # what benchmark.json holds
    form=markdown,  # or `latex`
) -> str:
    "Table 1 for the first pair, Table 2 three times, and the first pair's Table 1 of every other kind of subject."
    kinds = list(result["paired"])
    grey = f"Grey, in brackets: {SOURCE}."
    found = [
        table_one(result),
        *(table_two(result, s) for s in ("dice_oracle", "ap", "dice")),
        *(table_one(result, k) for k in kinds[1:]),
    ]
    return "\n\n".join([*(form(*t) for t in found), grey]) + "\n"
