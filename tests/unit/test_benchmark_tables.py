"The parts of a result: curves, chosen subjects, differences; and the tables and figures that show what was found."

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mmccd.benchmark import figures
from mmccd.benchmark.dataset import ScoredSubject
from mmccd.benchmark.measure import RECALLS, pictured, precision_at, score_kind
from mmccd.benchmark.result import compare_rows
from mmccd.benchmark.tables import (
    PUBLISHED,
    PUBLISHED_PAIR,
    PUBLISHED_PAIRS,
    SOURCE,
    all_tables,
    cell,
    entries_of,
    table_one,
    table_two,
)
from mmccd.registry import METHODS, table_methods
from mmccd.tables import latex_table
from mmccd.training_loop import TrainConfig, converged

RESULTS = Path(__file__).parents[2] / "data" / "results"


@pytest.fixture(scope="module")
def result():
    "The benchmark that comes with the package: six pairs, eight methods, gliomas first."
    return json.loads((RESULTS / "benchmark_cpu.json").read_text())


# ------------------------------------------------------------------------------------------------- parts
@pytest.mark.parametrize("seed", range(6))
def test_precision_at(seed):
    "The best precision of all thresholds that give this recall or more, ties and all."
    rng = np.random.default_rng(seed)
    truth = rng.random(80) < 0.3
    truth[0] = True
    score = np.round(rng.random(80) + truth * rng.random(), 2 - seed % 3)
    found = [(truth[score >= h].sum() / truth.sum(), truth[score >= h].mean()) for h in set(score)]
    assert np.allclose(precision_at(score, truth), [max(p for r, p in found if r >= want - 1e-12) for want in RECALLS])
    assert np.all(precision_at(np.ones(80), truth) == truth.mean())
    assert np.all(precision_at(truth * 1.0, truth) == 1)


def glioma(id, cm2):
    return ScoredSubject(id, "glioma", 0, float(cm2), 1.0, {})


def test_pictured():
    "Evenly spaced by rank of lesion size, of the first kind only."
    some = [glioma(str(n), n) for n in (3, 0, 4, 1, 2)]
    assert pictured(some[:1]) == ["3"]
    assert pictured(some[:3]) == ["0", "3", "4"]
    assert pictured(some) == list("01234")
    many = [glioma(f"{n:02}", n) for n in range(20)] + [ScoredSubject("ms", "ms", 0, 99.0, 1.0, {})]
    assert pictured(many) == ["02", "06", "10", "14", "18"]
    assert pictured(many, 1) == ["10"]


def test_a_perfect_map():
    "It has the best of every score, at any threshold that parts it; no threshold beats the oracle, and AP needs none."
    rng = torch.Generator().manual_seed(0)
    brain = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    batches = [{"brain": brain, "lesion": torch.rand(1, 1, 16, 16, generator=rng) > 0.8} for _ in range(3)]
    subjects = [replace(glioma(str(k), k), batch=b) for k, b in enumerate(batches)]
    perfect = score_kind(subjects, [b["lesion"].float() for b in batches], 0.5)["summary"]
    assert [perfect[k]["mean"] for k in ("dice", "dice_oracle", "ap", "auroc", "recall")] == [1] * 5
    assert perfect["assd"]["mean"] == perfect["assd_oracle"]["mean"] == perfect["fpr"]["mean"] == 0
    noisy = [b["lesion"] + torch.rand(1, 1, 16, 16, generator=rng) * 2 for b in batches]
    found = [score_kind(subjects, noisy, h)["summary"] for h in (0.2, 1.0, 1.8)]
    assert all(s["dice_oracle"]["mean"] >= s["dice"]["mean"] for s in found)
    assert len({s["ap"]["mean"] for s in found}) == 1


def test_compared_rows():
    "Like with like: each trained row less the threshold on its input, MMCCD less the others, shipped less shipped."

    def row(method, x, y, shipped, values):
        return {
            "method": method,
            "input": x,
            "target": y,
            "shipped": shipped,
            "kinds": {"ms": {"columns": ["dice", "ap", "dice_oracle"], "rows": [[0, v, 0] for v in values]}},
        }

    scores = {
        "everything": row("everything", None, None, False, (9, 9)),
        "threshold-t1": row("threshold", "t1", None, False, (8, 8)),
        "threshold-t2": row("threshold", "t2", None, False, (0.1, 0.2)),
        "dae-t2": row("dae", "t2", None, False, (0.5, None)),
        "dae-t2 shipped": row("dae", "t2", None, True, (0, 0)),
        "cycle-t2-t1": row("cycle", "t2", "t1", False, (0.3, 0.3)),
        "cycle-t2-flair": row("cycle", "t2", "flair", False, (7, 7)),
        "mmccd-t2-t1": row("mmccd", "t2", "t1", False, (0.6, 0.9)),
        "mmccd-t2-t1 shipped": row("mmccd", "t2", "t1", True, (0.6, 0.9)),
    }
    found = compare_rows(scores, "ms")
    assert list(found) == [
        "dae-t2 - threshold-t2",
        "dae-t2 shipped - threshold-t2",
        "cycle-t2-t1 - threshold-t2",
        "cycle-t2-flair - threshold-t2",
        "mmccd-t2-t1 - threshold-t2",
        "mmccd-t2-t1 - dae-t2",
        "mmccd-t2-t1 - cycle-t2-t1",
        "mmccd-t2-t1 shipped - threshold-t2",
        "mmccd-t2-t1 shipped - dae-t2 shipped",
    ]
    assert found["mmccd-t2-t1 - cycle-t2-t1"]["ap"]["mean"] == pytest.approx(0.45)
    assert found["mmccd-t2-t1 - dae-t2"]["ap"]["n"] == 1


def test_cells():
    s = {"n": 3, "mean": 0.126, "low": 0.1, "high": 0.2}
    assert [cell(s), cell(s, 1), cell(s, 2, True)] == ["0.13", "0.1", "0.13 [0.10, 0.20]"]
    assert cell(s | {"low": None, "high": None}, 2, True) == "0.13"
    assert cell(s | {"low": 0.0}, 2, True) == "0.13 [0.00, 0.20]"
    assert cell(s | {"mean": None}) == cell(None) == "-"


# ------------------------------------------------------------------------------------------------- published numbers
def test_published_numbers():
    "As on the poster."
    columns = ["dice_oracle", "auroc", "jaccard_oracle", "precision_oracle", "recall_oracle", "assd_oracle"]
    assert table({m: list(v.values()) for m, v in PUBLISHED.items()}) == table(
        """ae 0.2249 0.4621 0.1513 0.2190 0.2636 3.5936
        vae 0.2640 0.4739 0.1910 0.2717 0.2837 3.513
        dae 0.4619 0.9298 0.3291 0.4346 0.5477 7.5508
        ddpm 0.5662 0.9267 0.4172 0.5958 0.5949 6.5021
        cycle 0.5810 0.9409 0.4470 0.6545 0.5823 6.3487
        mmccd-published 0.6092 0.9409 0.4682 0.6505 0.6336 6.1171"""
    )
    assert all(list(v) == columns for v in PUBLISHED.values())
    assert table({m: list(v.values()) for m, v in PUBLISHED_PAIRS.items()}) == table(
        """dae 0.4619 0.4619 0.2803 0.2803 0.2325 0.2325
        ddpm 0.5662 0.5662 0.4633 0.4633 0.2865 0.2865
        cycle 0.5810 0.5732 0.4819 0.4036 0.3262 0.3906
        mmccd-published 0.6092 0.6090 0.4873 0.4993 0.3337 0.4239"""
    )
    pairs = ["flair-t2", "flair-t1", "t2-flair", "t2-t1", "t1-t2", "t1-flair"]
    assert all(list(v) == pairs for v in PUBLISHED_PAIRS.values())
    assert PUBLISHED_PAIR == "flair-t2"
    assert all(v["flair-t2"] == PUBLISHED[m]["dice_oracle"] for m, v in PUBLISHED_PAIRS.items())
    assert set(PUBLISHED) <= set(table_methods())


def table(lines):
    "Numbers by name."
    if isinstance(lines, dict):
        return lines
    return {name: [float(v) for v in values] for name, *values in map(str.split, lines.splitlines())}


def titles(result):
    "Of the methods that the result has, in the order of the registry."
    present = {e["method"] for e in result["scores"].values()}
    return [METHODS[m].title for m in table_methods() if m in present]


def plain(table):
    "Is there no published number in it?"
    return all(isinstance(c, str) for row in table.rows for c in row)


def test_published_only_where_they_belong(result):
    "Not beside lesions of another kind, nor another pair, nor weights that came with mmccd."
    assert not plain(table_one(result))
    assert plain(table_one(result, "ms"))
    assert plain(table_one(result, pair="t2-flair"))
    assert not plain(table_two(result, "dice_oracle"))
    assert plain(table_two(result, "dice_oracle", "ms"))
    assert plain(table_two(result, "ap"))
    assert plain(table_two(result, "dice"))
    shipped = result | {
        "scores": {k: e | {"shipped": METHODS[e["method"]].trainable} for k, e in result["scores"].items()}
    }
    assert plain(table_one(shipped))
    assert plain(table_two(shipped, "dice_oracle"))
    assert "MMCCD as published, shipped weights" in [row[0] for row in table_two(shipped).rows]


# ------------------------------------------------------------------------------------------------- tables
def test_table_one(result):
    table = table_one(result)
    assert table.head == [
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
    assert all(len(row) == len(table.head) for row in table.rows)
    ours = [row for row in table.rows if isinstance(row[0], str)]
    assert [row[0] for row in ours] == titles(result)
    columns = [
        "ap",
        "auroc",
        "dice",
        None,
        "dice_oracle",
        "jaccard_oracle",
        "precision_oracle",
        "recall_oracle",
        "assd_oracle",
    ]
    for row, e in zip(ours, entries_of(result, "flair-t2").values(), strict=True):
        s = e["kinds"]["glioma"]["summary"]
        for text, k in zip(row[1:], columns, strict=True):
            want = np.mean(e["healthy"]) * 100 if k is None else s[k]["mean"]
            digit = 0.0501 if k in (None, "assd_oracle") else 0.00501
            assert abs(float(re.match(r"[\d.]+", text)[0]) - want) <= digit, (e["method"], k)
        for k in ("ap", "dice", "dice_oracle"):
            assert f"[{s[k]['low']:.2f}, {s[k]['high']:.2f}]" in row[1 + columns.index(k)]


def test_published_rows(result):
    "Under the method they belong to, in grey alone; ASSD in pixels."
    rows = table_one(result).rows
    grey = [i for i, row in enumerate(rows) if not isinstance(row[0], str)]
    assert [rows[i - 1][0] for i in grey] == [METHODS[m].title for m in PUBLISHED]
    mmccd = rows[next(i for i, row in enumerate(rows) if row[0] == "MMCCD as published") + 1]
    assert not any(c and c[0] for c in mmccd)
    assert [c[1] if c else "" for c in mmccd] == [
        *("published", "", "0.94", "", "", "0.61", "0.47", "0.65", "0.63", "6.1 px"),
    ]


def test_table_two(result):
    table = table_two(result, "dice_oracle")
    assert table.head == [
        *("method", "FLAIR to T2", "FLAIR to T1", "T2 to FLAIR", "T2 to T1", "T1 to T2", "T1 to FLAIR"),
    ]
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == titles(result)

    def mean(key):
        return f"{result['scores'][key]['kinds']['glioma']['summary']['dice_oracle']['mean']:.2f}"

    assert rows["everything positive"] == [mean("everything")] * 6
    assert rows["threshold"][2:4] == [mean("threshold-t2")] * 2
    assert rows["AE"][0] == mean("ae-flair")
    assert rows["DAE"][:3] == [(mean("dae-flair"), "0.46"), (mean("dae-flair"), "0.46"), (mean("dae-t2"), "0.28")]
    assert rows["MMCCD as published"][1:3] == [
        (mean("mmccd-published-flair-t1"), "0.61"),
        (mean("mmccd-published-t2-flair"), "0.49"),
    ]


def test_a_row_that_a_pair_lacks(result):
    scores = {k: e for k, e in result["scores"].items() if k != "dae-t2"}
    row = next(row for row in table_two(result | {"scores": scores}).rows if row[0] == "DAE")
    assert [c == "-" for c in row[1:]] == [False, False, True, True, False, False]


def test_all_tables_in_markdown(result):
    text = all_tables(result)
    assert len(re.findall(r"^\| ---", text, re.M)) == len(result["paired"]) + 3 == 6
    assert text.endswith(f"Grey, in brackets: {SOURCE}.\n")
    assert "other data, other protocol" in SOURCE
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(line.strip().strip("|").split(" | ")) for line in table.splitlines()}) == 1
    assert all('<span style="color:gray">(' in line for line in text.splitlines() if "(published)" in line)
    assert "60 phantoms (glioma), slice protocol, mean [95 % interval]; preset cpu, seed 0, cpu, " in text


def test_all_tables_in_latex(result):
    text = all_tables(result, latex_table)
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(result["paired"]) + 3
    assert not re.search(r"(?<!\\)[%_#$]", text)
    for columns, body in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 3
        assert {line.count("&") for line in rows} == {len(columns) - 1}


# ------------------------------------------------------------------------------------------------- figures
def test_figures_show_what_was_found(result):
    ours = entries_of(result, "flair-t2").values()
    lines = figures.recall_figure(result).axes[0].get_lines()
    assert [line.get_ydata().tolist() for line in lines] == [e["kinds"]["glioma"]["curve"] for e in ours]
    assert len({line.get_color() for line in lines}) == len(ours)
    dots = [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in figures.cost_figure(result).axes[0].get_lines()
        if line.get_marker() == "o"
    ]
    costs = sorted((e["evaluations"], e["kinds"]["glioma"]["summary"]["ap"]["mean"]) for e in ours if e["evaluations"])
    assert sorted(y for _, y in dots) == sorted(y for _, y in costs)
    assert all(1 <= x / e < 1.6 for (x, _), (e, _) in zip(sorted(dots), costs))  # beside each other, not on top
    assert len(set(dots)) == len(costs)


def test_colours():
    assert len({figures.method_colour(m) for m in table_methods()}) == len(table_methods())


def test_shipped_weights_are_drawn_where_there_are_no_others(result):
    e = entries_of(result, "flair-t2")
    both = {**e, "dae-flair shipped": e["dae-flair"] | {"shipped": True}}
    assert "dae-flair shipped" not in figures.drawn_entries(result | {"scores": both})
    del both["dae-flair"]
    assert "dae-flair shipped" in figures.drawn_entries(result | {"scores": both})


# ------------------------------------------------------------------------------------------------- the kept result
def test_the_kept_networks_met_the_rule(result):
    "The flag in the file is what the rule says of the curve, and one validation earlier the run was not over."
    config = TrainConfig(**result["training"])
    assert set(result["networks"]) == {"ae", "vae", "dae", "ddpm", "cycle", "mmccd-published"}
    for net in result["networks"].values():
        losses = [row[3] for row in net["curve"]["rows"]]
        assert net["converged"] == converged(losses, config)
        assert not converged(losses[:-1], config)
        assert net["samples"] == net["steps"] * config.batch_size
        assert net["converged"] or net["steps"] == config.steps


def test_the_kept_floor_is_arithmetic(result):
    "With everything positive precision is the prevalence p and recall is 1, so Dice is 2p / (1 + p)."
    floor = result["scores"]["everything"]["kinds"]["glioma"]
    for s in (dict(zip(floor["columns"], row)) for row in floor["rows"]):
        assert s["dice"] == pytest.approx(2 * s["ap"] / (1 + s["ap"]), abs=1e-4)
        assert (s["auroc"], s["recall"], s["fpr"]) == (0.5, 1, 1)


def test_the_oracle_never_loses(result):
    for e in result["scores"].values():
        s = e["kinds"]["glioma"]["summary"]
        assert s["dice_oracle"]["mean"] >= s["dice"]["mean"] - 1e-6
