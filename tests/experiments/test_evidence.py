"""What the probes measure is what stands beside their numbers; what is derived in a result follows from its rows."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import run as runner
import torch
from evidence import (
    FLOOR,
    PAIRS,
    SCORES,
    Job,
    OneWay,
    Row,
    difference,
    evaluate,
    load_evaluation_set,
    make_rows,
    measure_row,
    open_evidence,
    row_maps,
    subject_rows,
)
from probes import comparison, derived, detectors, lesion, normalisation, quirks, settings, taken, translation
from sklearn.metrics import average_precision_score
from train_weights import load_settings

from mmccd.detector import load_detector
from mmccd.files import round_floats
from mmccd.masked_translation import Sampler
from mmccd.scoring import dice

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
ON_EVIDENCE = ("cyclic_phantom", "baselines_phantom")


def kept(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


# what is kept


@pytest.mark.parametrize("name", ON_EVIDENCE)
def test_kept_differences_follow_from_the_rows(name):
    result, steps = kept(name), runner.load_recipe(name).options["steps"]
    measured = SimpleNamespace(result=result)
    assert round_floats(derived.paired(measured, **steps["paired"])) == result["paired"]
    assert round_floats(derived.by_size(measured)) == result["by_size"]


@pytest.mark.parametrize("name", ON_EVIDENCE)
def test_kept_rows_are_those_of_the_recipe(name):
    o = detectors.Options(**runner.load_recipe(name).options)
    rows = {r.key for r in make_rows(o.single, o.paired, o.pairs, o.runs)}
    rows |= {Row(m, "", *p).key for m in o.taken for p in PAIRS}
    result = kept(name)
    assert set(result["methods"]) == rows == set(result["healthy"]["shares"])
    counts = {k: len(v["rows"]) for k, v in result["subjects"].items()}
    assert counts == {"glioma": 60, "ms": 30, "infarct": 30}
    for kind, found in result["kinds"].items():
        for key, got in found.items():
            for c in SCORES:
                mean = np.mean([r[c] for r in subject_rows(result, kind, key)])
                assert got["summary"][c]["mean"] == pytest.approx(mean, abs=2e-5)


def test_the_comparison_follows_from_its_rows():
    result, o = kept("comparison"), comparison.Options(**runner.load_recipe("comparison").options)
    assert round_floats(derived.paired(SimpleNamespace(result=result), comparison.contrasts(o))) == result["paired"]
    plain = {k for k, v in result["methods"].items() if v["setting"] == comparison.PLAIN}
    assert plain == {r.key for r in comparison.all_rows(o)}
    for kind, found in result["kinds"].items():
        assert set(found) == set(result["methods"]) == set(result["healthy"]["shares"])
        for key, got in found.items():
            for c in SCORES:
                mean = np.mean([r[c] for r in subject_rows(result, kind, key)])
                assert got["summary"][c]["mean"] == pytest.approx(mean, abs=2e-5)


def test_masked_detectors_are_packed_with_the_map_that_did_best():
    """The highest mean AP over pairs and kinds; `masked` and `mmccd` have one setting each."""
    result, (known, *_) = kept("error_map"), load_settings()
    for method in ("masked", "mmccd"):
        rows = [v for k, v in result["methods"].items() if k.rsplit("-", 2)[0] == method]
        mean = {
            s: np.mean([v[s][kind]["ap"]["mean"] for v in rows for kind in result["kinds"]]) for s in result["settings"]
        }
        assert len(rows) == 3
        assert result["settings"][max(mean, key=mean.get)] == known[method].error


def test_kept_moves_of_quirks_follow_from_their_runs():
    result = kept("quirks")
    for name, d in result["detectors"].items():
        assert round_floats(quirks.moves(d["runs"])) == result["moves"][name]


def test_the_packaged_samplers_are_those_that_the_rule_chooses():
    o = settings.Options(**runner.load_recipe("mmccd_settings").options)
    result = kept("mmccd_settings")
    assert set(result["samplers"]) == set(o.samplers)
    for name, chosen in result["chosen"].items():
        assert chosen == settings.cheapest(result["pairs"][name], o.margin)
        assert load_detector(name).config.sampler == Sampler(**o.samplers[chosen])
        best = max(result["pairs"][name].values(), key=lambda v: v["ap"]["mean"])
        assert result["pairs"][name][settings.cheapest(result["pairs"][name], 0.0)] == best


def intervals(x):
    if isinstance(x, dict):
        if {"mean", "low", "high"} <= set(x):
            yield x
        for v in x.values():
            yield from intervals(v)


@pytest.mark.parametrize("name", [*ON_EVIDENCE, "comparison", "mmccd_settings", "quirks", "benchmark_cpu"])
def test_kept_intervals_hold_their_mean(name):
    found = [x for x in intervals(kept(name)) if x["low"] is not None]
    assert len(found) > 50
    assert all(x["low"] <= x["mean"] <= x["high"] for x in found)


# what is measured


@pytest.fixture(scope="module")
def plan(work):
    "The evidence in small."
    job = Job(work, say=lambda text: None)
    return open_evidence(job, **runner.load_recipe("cyclic_phantom").tiny["evidence"])


@pytest.fixture(scope="module")
def result(plan, work):
    rows = [Row(FLOOR, FLOOR), Row("threshold", "threshold", "flair"), Row("threshold", "threshold", "t1")]
    return round_floats(evaluate(plan, rows, Job(work, say=lambda text: None), {})[0])


@pytest.mark.parametrize(("m", "sign"), [("flair", 1), ("t1", -1)])
def test_the_threshold_row_is_what_a_hand_computes(plan, result, m, sign):
    data, made = load_evaluation_set(plan), result["methods"][f"threshold {m}"]["threshold"]

    def by_hand(batch):
        return np.log1p(np.exp(3 * sign * batch[m].numpy()))[batch["brain"].numpy()]

    healthy = np.sort(by_hand(data.calibration))
    assert made == pytest.approx(healthy[len(healthy) - 1 - int(0.01 * len(healthy))], rel=1e-4)
    for s in (s for s in data.subjects if s.kind == "glioma"):
        row = next(r for r in subject_rows(result, "glioma", f"threshold {m}") if r["id"] == s.id)
        a, truth = by_hand(s.batch), s.batch["lesion"][s.batch["brain"]].numpy()
        assert row["pixels"] == len(truth)
        assert row["prevalence"] == pytest.approx(truth.mean(), rel=1e-4)
        assert row["ap"] == pytest.approx(average_precision_score(truth, a), rel=1e-4)
        assert row["dice"] == pytest.approx(dice(a > made, truth), abs=2e-3)
        assert row["fpr"] == pytest.approx((a > made)[~truth].mean(), abs=1e-3)
    shares = [(by_hand(s.batch) > made).mean() for s in data.healthy]
    assert result["healthy"]["shares"][f"threshold {m}"] == pytest.approx(shares, abs=5e-4)


def test_everything_positive_is_the_floor(result):
    for row in subject_rows(result, "glioma", FLOOR) + subject_rows(result, "ms", FLOOR):
        p = row["prevalence"]
        assert row["ap"] == pytest.approx(p, rel=1e-4)
        assert row["auroc"] == 0.5
        assert row["dice"] == row["dice_oracle"] == pytest.approx(2 * p / (1 + p), rel=1e-4)
    assert result["healthy"]["shares"][FLOOR] == [1, 1]


def test_rows_are_compared_subject_by_subject(result):
    a, b = "threshold flair", "threshold t1"
    there, back = (difference(result, "glioma", *keys) for keys in ((a, b), (b, a)))
    for c, d in there.items():
        assert (d["mean"], d["low"]) == pytest.approx((-back[c]["mean"], -back[c]["high"]), abs=1e-9)
    gains = [x["ap"] - y["ap"] for x, y in zip(*(subject_rows(result, "glioma", k) for k in (a, b)))]
    assert there["ap"]["mean"] == pytest.approx(np.mean(gains))


class Perfect:
    "A translator that knows the answer, but for a constant."

    device, modules = torch.device("cpu"), staticmethod(lambda: [])

    def __init__(self, answer, off=0.0):
        self.answer, self.off = answer, off
        self.config = SimpleNamespace(input="flair", target="t2", size=240, normalisation="tukey")

    def translate(self, x, brain, generator=None):
        return self.answer + self.off


def test_a_perfect_translator_finds_nothing(plan):
    batch, row = load_evaluation_set(plan).subjects[0].batch, Row("one-way", "", "flair", "t2")
    y = batch["t2"]
    assert row_maps(row, Perfect(y), batch).max() == 0
    off = row_maps(row, Perfect(y, 0.5), batch)
    torch.testing.assert_close(off, torch.where(batch["brain"], 0.25, 0.0), atol=1e-5, rtol=0)
    assert OneWay(Perfect(y)).config.input == "flair+t2"
    assert translation.translation_error(Perfect(y), batch) == 0
    assert translation.translation_error(Perfect(y, 0.5), batch) == pytest.approx(0.25, abs=1e-5)


def test_network_evaluations_are_counted(plan):
    got = {m: measure_row(plan, Row(m, m, "flair", "t2"))["evaluations"] for m in ("one-way", "cycle")}
    assert got == {"one-way": 1, "cycle": 2}


@pytest.fixture(scope="module")
def pair(plan):
    return lesion.pairs_of(plan)[0]


@pytest.mark.parametrize(("what", "copied"), [("subject", 1), ("twin", 0)])
def test_a_copy_of_the_lesion_and_its_healthy_twin(pair, what, copied):
    "What gives the patient back copies all of the lesion, and what gives the twin back none."
    s, twin = pair
    back = s.batch["flair"] if what == "subject" else twin["flair"]
    config = SimpleNamespace(input="flair", size=240, normalisation="tukey")
    d = SimpleNamespace(config=config, device=torch.device("cpu"), reconstruct=lambda *_: back)
    share, contrast, inside, outside = lesion.copied_share(d, s, twin)
    assert share == pytest.approx(copied, abs=1e-6)
    assert contrast > 0.01
    assert inside == pytest.approx(copied * contrast, abs=1e-6)
    assert (outside == 0) == (what == "twin")


def test_a_twin_of_another_subject_is_refused(pair):
    s, _ = pair
    with pytest.raises(ValueError, match="cannot be made again"):
        lesion.healthy_twin(replace(s, id="phantom1-glioma-s402-001"), 402, ("flair",))


def test_a_tissue_with_hardly_any_pixels_says_nothing(pair):
    s, twin = pair
    one_pixel = torch.zeros_like(twin["tissue"])
    found = lesion.tissue_scores(s.batch["flair"], s, {"tissue": one_pixel}, ["wm"])
    assert found == {"wm": None}
    assert 0 <= lesion.tissue_scores(s.batch["flair"], s, twin, ["wm"])["wm"] <= 1


def test_rows_of_other_subjects_or_weights_are_not_taken(result, monkeypatch, tmp_path):
    monkeypatch.setattr(taken, "RESULTS", tmp_path)
    about = {"seed": 1, "fpr": 0.01, "left_out": []}
    old = about | result | {"methods": {}, "evaluations": {"cycle": 2}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"cycle flair-t1 in old\.json is not of the packaged weights"):
        taken.add_rows(about | result, {}, [], {"cycle": "old.json"}, PAIRS[:1])
    with pytest.raises(ValueError, match="not of the same seed"):
        taken.add_rows(about | result | {"seed": 2}, {}, [], {"cycle": "old.json"}, PAIRS[:1])


def test_runs_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no training"):
        detectors.check_runs({"flair-t2": str(tmp_path)}, [])
    record = {"status": "not done", "about": {"data": {"ids": ["a"]}, "validation": {"ids": ["b"]}}}
    (tmp_path / "train.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is not done"):
        detectors.check_runs({"flair-t2": str(tmp_path)}, [])
    (tmp_path / "train.json").write_text(json.dumps(record | {"status": "done"}))
    detectors.check_runs({"flair-t2": str(tmp_path)}, ["c"])
    with pytest.raises(ValueError, match="have learned from b, a subject that is scored"):
        detectors.check_runs({"flair-t2": str(tmp_path)}, ["b", "c"])


def test_a_normalisation_that_a_lesion_moves_is_caught():
    "One that is not moved scores 0."
    rng, patients = np.random.default_rng(0), []
    for i in range(3):
        draw = np.random.default_rng(i).normal
        twin = np.concatenate([draw(300, 20, 2250), draw(400, 25, 2250), draw(80, 20, 500)])
        ill = rng.random(len(twin)) < 0.1
        tissue = np.select([twin > 350, twin > 200], [2, 4], 1)  # cortex, white matter, fluid
        values = {"ill": {"flair": np.where(ill, 2000, twin)}, "twin": {"flair": twin}}
        patients.append(values | {"tissue": tissue, "lesion": ill})
    naive, fenced = (normalisation.compare(patients, m, "flair")[0] for m in ("percentiles", "tukey"))
    assert naive["shift"] > 10 * fenced["shift"]
    assert fenced["shift"] < 0.1
    healthy = [{**p, "ill": p["twin"]} for p in patients]
    assert normalisation.compare(healthy, "percentiles", "flair")[0]["shift"] == 0
    assert normalisation.compare(healthy, "nyul", "flair")[0]["displacement"] == pytest.approx(
        normalisation.compare(healthy, "nyul", "flair")[0]["spread"]
    )
