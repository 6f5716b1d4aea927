"""Every result has a recipe, every recipe a result, and a run in small leaves what the kept file holds."""

import importlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import run as runner
from evidence import Job

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted(p.stem for p in (ROOT / "data" / "results").glob("*.json"))
MEASURED = [n for n in RESULTS if not runner.load_recipe(n).command]
NEWER = {
    "recipe",
    "recipe_sha256",
    "code_sha256",
    "command",
    "before",
    "date",
    "device",
    "torch",
    "mmccd",
    "phantom",
    "seed",
}
"""Facts that all results say now; some older ones said less."""
ADDED = {"jaccard", "precision", "recall"}
"""Scores that `score_subjects` has learned since the oldest results were made."""
PRINTS = {"fingerprint", "fingerprint_v1"}
"""Older results keep the older kind of fingerprint, where their networks are gone."""


LARGE = ("benchmark", "comparison", "ensemble", "imagination", "real", "settings", "transfer")
"""Probes that take more than five seconds of a core in small; `detectors` goes through the same evidence and runner."""


def first_of_each_probe(names):
    "Names of recipes as parameters, slow where the probe is large, or is that of an earlier recipe."
    probes = [runner.load_recipe(name).probe for name in names]
    return [
        pytest.param(name, marks=pytest.mark.slow if probe in [*probes[:i], *LARGE] else ())
        for i, (name, probe) in enumerate(zip(names, probes))
    ]


def kept(name):
    return json.loads((ROOT / "data" / "results" / f"{name}.json").read_text())


def test_results_and_recipes_are_the_same_list():
    assert runner.recipe_names() == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_names_its_recipe_and_the_readme_both(name):
    recipe = runner.load_recipe(name)
    assert kept(name)["recipe"] == recipe.path
    assert (ROOT / recipe.path).is_file()
    line = next(li for li in (ROOT / "data" / "README.md").read_text().splitlines() if f"results/{name}.json" in li)
    assert recipe.path in line
    assert recipe.cost in line
    assert recipe.made.startswith(kept(name)["date"])


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_was_made_by_the_recipe_of_today(name):
    recipe = runner.load_recipe(name)
    assert kept(name)["recipe_sha256"] == recipe.digest, "the recipe has changed: make the result again"
    assert replace(recipe, cost="less").digest == recipe.digest
    assert replace(recipe, options={"a": 1}).digest != recipe.digest


@pytest.mark.parametrize("name", RESULTS)
def test_what_a_recipe_names_is_there(name):
    recipe = runner.load_recipe(name)
    if recipe.command:
        assert (ROOT / recipe.command[0]).is_file()
    else:
        assert callable(importlib.import_module(f"probes.{recipe.probe}").run)
        assert set(recipe.tiny) <= {*recipe.options, "pairs", "places", "methods"}
    for line in recipe.before:
        script = re.match(r"python (\S+) (\S+)", line)
        assert script is None or (ROOT / script[1]).is_file(), line
        assert script is None or "run.py" not in script[1] or script[2] in RESULTS, line


def test_a_recipe_with_a_wrong_key_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RECIPES", tmp_path)
    (tmp_path / "a.yaml").write_text("question: q\ncost: c\nmade: m\nprobe: p\noption: {}\n")
    with pytest.raises(ValueError, match=r"Cannot read .*a.yaml: the field option is unknown; correct that key"):
        runner.load_recipe("a")
    for text, words in (("question: [q]", "question: should be a valid string"), ("- a", "should be an object")):
        (tmp_path / "a.yaml").write_text(text + "\n")
        with pytest.raises(ValueError, match=rf"Cannot read .*a.yaml: .*{words}"):
            runner.load_recipe("a")
    (tmp_path / "a.yaml").write_text("question: q\ncost: c\nmade: m\nprobe: p\ncommand: [c]\n")
    with pytest.raises(ValueError, match="either a probe or a command"):
        runner.load_recipe("a")
    with pytest.raises(ValueError, match="no recipe 'b': choose a"):
        runner.load_recipe("b")


# the layout of a run in small


def layout(x):
    "The keys of a result without its values, to compare siblings by."
    return {k: layout(v) for k, v in x.items()} if isinstance(x, dict) else "list" if isinstance(x, list) else "value"


def alike(a, b):
    return layout(a) == layout(b) or (isinstance(a, dict) and isinstance(b, dict) and bool(set(a) & set(b)))


def differences(new, old, path=()):
    """Keys of `new` that `old` lacks, and the other way round. Other rows of the same kind are no difference."""
    if isinstance(new, dict) and isinstance(old, dict):
        known = (ADDED | PRINTS) if path else NEWER
        for k in new.keys() - old.keys() - known:
            if not (path and isinstance(new[k], dict) and any(alike(new[k], v) for v in old.values())):
                yield f"new: {'/'.join((*path, k))}"
        for k in old.keys() - new.keys():
            siblings = [old[s] for s in new.keys() & old.keys()]
            rows = path and isinstance(old[k], (dict, list)) and (not new or any(alike(old[k], s) for s in siblings))
            numbers = len(path) and path[-1] in ("evaluations", "subjects", "weights", "patients", "ap")
            if not (rows or numbers or k == "error" or k in PRINTS):  # an error depends on the subjects
                yield f"gone: {'/'.join((*path, k))}"
        for k in new.keys() & old.keys():
            yield from differences(new[k], old[k], (*path, k))
    elif isinstance(new, list) and isinstance(old, list):
        if new and old:
            yield from differences(new[0], old[0], (*path, "0"))
    elif isinstance(new, (dict, list)) != isinstance(old, (dict, list)) and new is not None and old is not None:
        yield f"another kind: {'/'.join(path)}"


@pytest.mark.parametrize("name", first_of_each_probe(MEASURED))
def test_a_run_in_small_has_the_layout_of_the_kept_result(name, work):
    recipe = runner.load_recipe(name)
    said = []
    result = runner.make(recipe, Job(work, say=said.append), recipe.options | recipe.tiny)
    assert not list(differences(result, kept(name)))
    assert result["recipe"] == recipe.path
    assert list(runner.numbers(result, kept(name)))


def test_the_layout_test_sees_what_is_new_and_what_is_gone():
    old = {"date": "d", "a": {"x": {"n": 1, "m": 2}, "y": {"n": 1, "m": 2}}, "rows": [[1, 2]]}
    assert not list(differences({"date": "d", "a": {"x": {"n": 5, "m": 2}}, "rows": []}, old))
    assert list(differences({"date": "d", "a": {"x": {"n": 5}}, "rows": []}, old)) == ["gone: a/x/m"]
    assert list(differences(old | {"b": 1}, old)) == ["new: b"]


# the command


@pytest.fixture
def toy(tmp_path, monkeypatch):
    "A recipe with a probe that takes no time, and a kept result of it."
    (tmp_path / "recipes").mkdir()
    (tmp_path / "results").mkdir()
    text = "question: q\ncost: a moment\nmade: m\nprobe: toy\noptions: {n: 3, by: 0.5}\ntiny: {n: 1}\nhead: {what: w}\n"
    (tmp_path / "recipes" / "toy.yaml").write_text(text)
    monkeypatch.setattr(runner, "RECIPES", tmp_path / "recipes")
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")

    def probe(options, job):
        return {"rows": [[i * options["by"]] for i in range(options["n"])], "folder": job.work.name}

    monkeypatch.setitem(sys.modules, "probes.toy", SimpleNamespace(run=probe))
    assert runner.main(["toy", "--work", str(tmp_path / "work")]) == 0
    return tmp_path / "results" / "toy.json"


def test_a_run_writes_its_result_with_its_recipe(toy):
    made = json.loads(toy.read_text())
    assert made["recipe"] == "experiments/recipes/toy.yaml"
    assert made["command"] == "python experiments/run.py toy"
    assert made["what"] == "w"
    assert made["rows"] == [[0], [0.5], [1]]
    assert {"date", "device", "torch", "mmccd", "phantom"} < set(made)


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--set", "by=0.50001"], 0), (["--set", "by=0.6"], 1)])
def test_a_check_compares_and_writes_nothing(toy, options, code, capsys):
    before = toy.read_bytes()
    assert runner.main(["toy", "--check", *options, "--work", str(toy.parent)]) == code
    assert toy.read_bytes() == before
    assert re.search(r"rows +3 numbers, largest difference", capsys.readouterr().out)


@pytest.mark.parametrize("options", [["--tiny"], ["--set", "n=2"]])
def test_a_trial_never_replaces_a_result(toy, options, tmp_path):
    before = toy.read_bytes()
    assert runner.main(["toy", *options, "--work", str(tmp_path / "work")]) == 0
    assert toy.read_bytes() == before
    assert runner.main(["toy", *options, "--work", str(tmp_path / "work"), "--out", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "toy.json").read_text())
    assert len(made["rows"]) == (1 if options == ["--tiny"] else 2)
    assert made["folder"] == ("tiny" if options == ["--tiny"] else "work")


def test_the_recipes_are_listed_with_what_they_cost(toy, capsys):
    assert runner.main([]) == 0
    assert re.search(r"toy +a moment", capsys.readouterr().out)


def test_a_missing_folder_is_refused_before_anything_is_measured(toy, tmp_path):
    with pytest.raises(ValueError, match="there is no such folder"):
        runner.main(["toy", "--out", str(tmp_path / "no")])
