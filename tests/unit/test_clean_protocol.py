"The clean protocol: alone as in company, its rates, its table; and what both protocols refuse."

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_maps import others, slices

from mmccd.protocols import CLEAN, Quirks, clean_scores, clean_table, paper_scores

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
NAMES = [f.name for f in fields(Quirks)]
some = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31 - 1)


@pytest.fixture(scope="module")
def test():
    return slices()


@pytest.fixture(scope="module")
def healthy():
    return others()


def plain(row, *but):
    return {k: v for k, v in row.items() if k not in ("id", "dice_oracle", *but)}


@some
@given(seed=seeds, k=st.integers(0, 4))
def test_alone_as_in_company(seed, k):
    test, healthy = slices(seed), others(seed + 1)
    company = clean_scores(*test, healthy)
    if k >= 3:
        few = clean_scores(*([v[0], v[k]] for v in test), healthy)
        for rate in company:
            assert plain(few[rate]["healthy"]["subjects"][0]) == plain(company[rate]["healthy"]["subjects"][k - 3])
    else:
        one = clean_scores(*(v[k : k + 1] for v in test), healthy)
        for rate in company:
            assert plain(one[rate]["subjects"][0]) == plain(company[rate]["subjects"][k])
            assert one[rate]["threshold"] == company[rate]["threshold"]


@some
@given(seed=seeds, factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_the_scale_of_the_maps_does_not_matter(seed, factor):
    "Powers of two, so that no digit is lost."
    (maps, truths, brains), (others_, inside) = slices(seed), others(seed + 1)
    a = clean_scores(maps, truths, brains, (others_, inside))
    b = clean_scores(
        [np.float32(factor) * m for m in maps], truths, brains, ([np.float32(factor) * m for m in others_], inside)
    )
    for rate in a:
        assert a[rate]["subjects"] == b[rate]["subjects"]
        assert a[rate]["healthy"] == b[rate]["healthy"]
        assert b[rate]["threshold"] == pytest.approx(factor * a[rate]["threshold"])


def test_clean_is_the_switched_off_paper(test, healthy):
    for fpr in (0.01, 0.05):
        a, b = clean_scores(*test, healthy, (fpr,), 2.0), paper_scores(*test, CLEAN, healthy, fpr, spacing=2.0)
        (a,) = a.values()
        for there, here in dict(
            dice="dice", auroc="auc", assd="assd", jaccard="jaccard", precision="precision", recall="sensitivity"
        ).items():
            assert a["summary"][there]["mean"] == pytest.approx(b[here]), there
        assert a["threshold"] == b["threshold"]
        assert a["healthy"]["summary"]["share"]["mean"] == pytest.approx(b["healthy"]["marked"])
        assert a["rate"] == fpr


def test_clean_has_both_rates_and_an_oracle(test, healthy):
    r = clean_scores(*test, healthy, ids=["a", "b", "c", "d", "e"])
    assert list(r) == ["1 %", "5 %"]
    assert r["1 %"]["threshold"] > r["5 %"]["threshold"]
    assert json.loads(json.dumps(r, allow_nan=False)) == r
    for x in r.values():
        assert [s["id"] for s in x["subjects"]] == ["a", "b", "c"]
        assert [s["id"] for s in x["healthy"]["subjects"]] == [
            "d",
            "e",
        ]
        assert x["summary"]["dice_oracle"]["mean"] >= x["summary"]["dice"]["mean"] - 1e-12
        assert "labels" in x["oracle_origin"]
        assert "healthy" in x["threshold_origin"]
    assert r["5 %"]["healthy"]["summary"]["share"]["mean"] > r["1 %"]["healthy"]["summary"]["share"]["mean"]
    assert r["1 %"]["oracle_threshold"] == r["5 %"]["oracle_threshold"]


def test_outside_the_brain_nothing_counts(test, healthy):
    maps, truths, brains = test
    dirty = (
        [np.where(b, m, 1e6).astype(np.float32) for m, b in zip(maps, brains)],
        [t | ~b for t, b in zip(truths, brains)],
    )
    a, b = clean_scores(*test, healthy), clean_scores(*dirty, brains, healthy)
    for rate in a:
        assert a[rate]["subjects"] == b[rate]["subjects"]
        assert a[rate]["healthy"] == b[rate]["healthy"]
    np.testing.assert_equal(
        paper_scores(*test, CLEAN, healthy)["rows"], paper_scores(*dirty, brains, CLEAN, healthy)["rows"]
    )


def test_volumes_are_scored_as_volumes(test, healthy):
    stack = [[np.stack([v, v], -1) for v in part] for part in test]
    flat, deep = (
        clean_scores(*test, healthy)["1 %"],
        clean_scores(*stack, [[np.stack([v, v], -1) for v in part] for part in healthy])["1 %"],
    )
    assert (flat["protocol"], deep["protocol"]) == ("slice", "volume")
    assert deep["threshold"] == flat["threshold"]
    for k in ("dice", "ap", "auroc", "dice_oracle"):
        assert deep["summary"][k]["mean"] == pytest.approx(flat["summary"][k]["mean"])


def test_the_table_shows_what_was_scored(test, healthy):
    r = clean_scores(*test, healthy)
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in clean_table({"one": r, "two": r}).split("\n")]
    assert {len(line) for line in lines} == {10}
    assert [line[0] for line in lines] == ["detector", "---", "one", "two"]
    assert lines[0][3] == "Dice (oracle)"
    s = r["1 %"]["summary"]["dice"]
    assert lines[2][1] == f"{s['mean']:.2f} [{s['low']:.2f}, {s['high']:.2f}]"
    assert lines[2][-1] == f"{100 * r['5 %']['healthy']['summary']['share']['mean']:.1f} %"
    nobody = clean_scores(*(v[:1] for v in test), healthy)
    assert clean_table({"x": nobody}).endswith("| - | - |")


# ---- bad input: one plain sentence
A, B = np.ones((8, 8), np.float32), np.ones((8, 8), bool)
T = np.eye(8, dtype=bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: paper_scores([A], [T, T], [B]), "got 1 maps, 2 truths and 1 brains"),
        (lambda: paper_scores([], [], []), "no slice with a lesion"),
        (lambda: paper_scores([A], [0 * T], [B]), "no slice with a lesion"),
        (lambda: paper_scores([A], [T[:4]], [B]), r"one shape, got \(8, 8\), \(4, 8\)"),
        (lambda: paper_scores([A[0]], [T[0]], [B[0]]), r"\(h w\) of one shape"),
        (lambda: paper_scores([A], [T * 4], [B]), "truth must hold 0 and 1 only, but it holds 4"),
        (lambda: paper_scores([A], [T], [0 * B]), "brain mask is empty"),
        (lambda: paper_scores([A * np.nan], [T], [B]), "must be finite"),
        (lambda: paper_scores([A], [T], [B]), "1 everywhere have no scale"),
        (lambda: paper_scores([A], [T], [B], CLEAN), "needs healthy subjects"),
        (lambda: paper_scores([A], [T], [B], CLEAN, ([], [])), "needs healthy subjects"),
        (lambda: paper_scores([A], [T], [B], CLEAN, ([A], [B]), fpr=1), "between 0 and 1, got 1"),
        (lambda: clean_scores([A], [T], [B], ([], [])), "needs healthy subjects"),
        (lambda: clean_scores([A], [0 * T], [B], ([A], [B])), "no subjects to score"),
        (lambda: clean_scores([A], [T], [B], ([A], [B]), fprs=(0,)), "between 0 and 1, got 0"),
        (lambda: clean_scores([A * np.nan], [T], [B], ([A], [B])), "must be finite"),
        (lambda: clean_table({}), "no results"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words) as e:
        call()
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 250
