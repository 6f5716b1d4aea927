"A plain installation detects and scores; whatever needs more says so in one sentence, before it does anything."

import ast
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmccd.anatomy import load_atlas
from mmccd.cases.records import open_place
from mmccd.extras import PACKAGES, MissingExtraError, require
from mmccd.weights.hub import download
from mmccd.weights.sharing import make_repository, upload

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NEED_AN_EXTRA = {  # modules that import a package of an extra as they are imported, and are imported where it is needed
    "cluster/worker.py",
    "training/callback.py",
    "training/fit.py",
}


@pytest.mark.parametrize("extra", PACKAGES)
def test_extras_are_those_of_the_package(extra):
    declared = {Requirement(line).name.replace("-", "_").removesuffix("_py") for line in EXTRAS[extra]}
    assert set(PACKAGES[extra]) <= declared | {"ipykernel"}  # JupyterLab brings that


def imported_at_once(path):
    "Top-level packages that a module imports when it is imported itself."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_who_imports_the_packages_of_extras():
    names = {name for packages in PACKAGES.values() for name in packages} | {"dask", "IPython", "nbformat", "numcodecs"}
    found = {
        path.relative_to(ROOT / "mmccd").as_posix()
        for path in (ROOT / "mmccd").rglob("*.py")
        if names & set(imported_at_once(path))
    }
    assert found == NEED_AN_EXTRA


@pytest.mark.parametrize(
    ("words", "gone", "extra"),
    [
        ("demo --out out", "nilearn", "train"),
        ("phantom out --glioma 1", "nilearn", "train"),
        ("prepare phantom out --healthy 1 --every 8", "zarr", "train"),
        ("train cycle store --input flair --target t2 --out out", "lightning", "train"),
        ("benchmark --out out", "lightning", "train"),
        ("class-pack out", "nbconvert", "notebooks"),
    ],
)
def test_a_command_that_needs_an_extra(words, gone, extra, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, gone, None)
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    command = f"mmccd {words.split()[0]}"
    expected = f"{command} needs {gone}, which does not come with mmccd alone: pip install 'mmccd[{extra}]'"
    assert err.strip().endswith(expected)
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("call", "gone", "extra"),
    [
        (load_atlas.__wrapped__, "nilearn", "train"),
        (lambda: open_place("store"), "zarr", "train"),
        (lambda: download("a/b"), "huggingface_hub", "hub"),
        (lambda: make_repository("a/b"), "huggingface_hub", "hub"),
        (lambda: upload("folder", "a/b"), "huggingface_hub", "hub"),
    ],
)
def test_a_function_that_needs_an_extra(call, gone, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(MissingExtraError, match=rf"needs {gone}, which .*: pip install 'mmccd\[{extra}\]'$") as caught:
        call()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.name == gone


def test_exploring_a_phantom_needs_an_extra_and_a_case_does_not(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    code, _out, err = run("explore", "--html", tmp_path / "page.html")
    assert code == 2
    assert "a phantom needs nilearn" in err
    assert "pip install 'mmccd[train]', or name a CASE of yours" in err
    assert not list(tmp_path.iterdir())


def test_several_that_are_missing(monkeypatch):
    for name in ("zarr", "fsspec", "nilearn"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"^x needs zarr and fsspec, which do not come with mmccd alone: "):
        require("x", "zarr", "numpy", "fsspec")
    with pytest.raises(MissingExtraError, match=r"^x needs zarr, nilearn and fsspec, which do"):
        require("x", "zarr", "nilearn", "fsspec")
    require("x", "numpy")
