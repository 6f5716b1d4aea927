"The benchmarks of loading, of many cases and of training run in small, and leave what the kept results hold."

import importlib
import json
from pathlib import Path

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def layout(x):
    "Keys of nested dicts, and of the first item of lists."
    if isinstance(x, dict):
        return {k: layout(v) for k, v in x.items()}
    return [layout(x[0])] if isinstance(x, list) and x else None


slow = pytest.mark.slow  # they start many processes


@pytest.mark.parametrize("name", ["training", pytest.param("loader", marks=slow), pytest.param("scale", marks=slow)])
def test_a_quick_run_leaves_what_is_kept(name, tmp_path):
    importlib.import_module(name).main(["--quick", "--out", str(tmp_path / "r.json")])
    made, kept = (json.loads(p.read_text()) for p in (tmp_path / "r.json", RESULTS / f"bench_{name}.json"))
    kept.pop("large", None)  # takes minutes
    assert kept.pop("recipe_sha256")  # experiments/run.py adds it
    assert layout(made) == layout(kept)
    assert made["recipe"] == kept["recipe"]


def test_what_follows_for_many_cases():
    per_case = importlib.import_module("scale").per_case
    rows = [{"cases": 10, "cpu_s": 25.0, "peak_mb": 500}, {"cases": 200, "cpu_s": 405.0, "peak_mb": 519}]
    found = per_case(rows)
    assert found["s_a_case"] == pytest.approx(2)
    assert found["start_s"] == pytest.approx(5)
    assert found["mb_a_case"] == pytest.approx(0.1)
    assert found["brats_hours"] == pytest.approx((5 + 1251 * 2) / 3600)


def test_copies_are_cases_of_their_own(tmp_path):
    head = tmp_path / "head"
    head.mkdir()
    (head / "head_flair.nii.gz").write_bytes(b"x")
    made = importlib.import_module("scale").copies(head, tmp_path / "many", 3)
    assert sorted(p.name for p in made.rglob("*.gz")) == [f"case-{k:04d}_flair.nii.gz" for k in range(3)]
