"""Arrows between modules point down, in no circle; scoring, cases and the rest keep to their rooms."""

import ast
from pathlib import Path

import imports
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = imports.modules(ROOT)
NETWORKS = {"unet", "translate", "cycle", "diffusion", "masked_diffusion", "baselines", "detector", "training_loop"}


def test_all_arrows_point_down():
    assert imports.problems(ROOT) == []


def test_scoring_knows_arrays_only():
    graph = imports.graph(ROOT)
    assert graph["scoring"] <= {"aliases"}
    assert graph["summary"] <= {"scoring", "tables", "aliases"}


def test_cases_know_no_networks():
    graph = imports.graph(ROOT)
    assert not {n for m, names in graph.items() if m.startswith("cases") for n in names} & NETWORKS


def test_only_the_command_line_prints():
    "Standard output belongs to the command line; what others have to say goes to standard error."
    for name, path in MODULES.items():
        if name.split(".")[0] in ("cli", "__main__") or name == "classroom.install":  # a script for other machines
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                assert any(k.arg == "file" for k in node.keywords), f"mmccd.{name} prints in line {node.lineno}"


def in_the_systems_encoding(code):
    "Calls in some code that read or write text without saying in which encoding: on Windows, that is not UTF-8."
    for call in ast.walk(ast.parse(code)):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        match call.func:
            case ast.Attribute(attr="read_text" | "write_text"):
                yield ast.unparse(call)
            case ast.Name(id="open") if "b" not in "".join(ast.unparse(a) for a in call.args[1:2]):
                yield ast.unparse(call)
            case ast.Attribute(value=value, attr="open") if "b" not in "".join(ast.unparse(a) for a in call.args[:1]):
                if ast.unparse(value) not in ("Image", "os", "tarfile", "webbrowser"):
                    yield ast.unparse(call)


def test_text_is_utf8_on_every_system():
    for path in [*MODULES.values(), *(ROOT / "tools").glob("*.py")]:
        found = list(in_the_systems_encoding(path.read_text(encoding="utf-8")))
        assert not found, f'{path.name} lacks encoding="utf-8" in {found}'
    for bad in ("open(p)", "p.open('w')", "open(p, 'x', opener=o)", "(a / 'b').read_text()", "p.write_text(t)"):
        assert list(in_the_systems_encoding(bad)) == [bad]
    for good in ("open(p, 'rb')", "p.open('wb')", "Image.open(p)", "p.read_text('utf-8', encoding='utf-8')"):
        assert not list(in_the_systems_encoding(good))


def test_no_module_is_too_long():
    long = {n: k for n, p in MODULES.items() if (k := len(p.read_text().splitlines())) > 500}
    assert not long, f"split them: {long}"


def test_every_module_says_what_it_is_for():
    silent = [n for n, p in MODULES.items() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, f"without a docstring: {silent}"


def test_contributing_shows_the_graph_of_today():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert imports.BEGIN in text
    assert imports.document(text, ROOT) == text, "run `python tools/imports.py --write`"


# ---- the check of the checks


@pytest.fixture
def package(tmp_path):
    "A function that writes modules below mmccd/ and returns the folder above it."

    def write(**modules):
        for name, text in {"__init__": "", **modules}.items():
            path = tmp_path / "mmccd" / f"{name.replace('__in__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


CHAPTER = f"{imports.GENERATED} ../nbs/x.ipynb.\n"


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (
            {"scoring": CHAPTER + "from mmccd.cases import grid", "cases__in____init__": "", "cases__in__grid": ""},
            "above",
        ),
        (
            {"unet": CHAPTER + "def f():\n    from .cli.app import main", "cli__in____init__": "", "cli__in__app": ""},
            "above",
        ),
        ({"unet": CHAPTER + "import mmccd.cli as c", "cli__in____init__": ""}, "above"),
        ({"unet": CHAPTER + "from .viz import a", "viz": CHAPTER + "from mmccd import unet"}, "circle: "),
        ({"unknown": ""}, "no room"),
        (
            {
                "training__in____init__": "",
                "training__in__a": "from mmccd.detection.b import x",
                "training__in__c": "",
                "detection__in____init__": "",
                "detection__in__b": "from mmccd.training import c",
            },
            "rooms import each other in a circle",
        ),
    ],
    ids=["upwards", "lazily", "plain", "circle", "unknown", "rooms"],
)
def test_each_fault_is_found(package, modules, words):
    assert any(words in sentence for sentence in imports.problems(package(**modules)))


def test_what_is_allowed(package):
    root = package(
        unet=CHAPTER + "from mmccd.runtime import seed\nif TYPE_CHECKING:\n    from mmccd.cli import app",
        runtime="",
        cli__in____init__="from mmccd.cli import app",
        cli__in__app="from mmccd import unet",
    )
    assert imports.problems(root) == []
    assert imports.graph(root)["cli.app"] == {"unet"}
    assert "cli --> components" in imports.drawing(root)
    assert "cli --> runtime" not in imports.drawing(root), "it follows from the others"
