"""One truth about versions and requirements, and an import that stays light."""

import ast
import contextlib
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmccd.extras import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SETTINGS = ConfigParser()
SETTINGS.read(ROOT / "settings.ini")
SETTINGS = SETTINGS["DEFAULT"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [
    r for r in map(Requirement, sum(EXTRAS.values(), PROJECT["dependencies"])) if r.name != "mmccd"
]  # those of the extras too, which name each other
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "mmccd/__init__.py").read_text())[1]
HEAVY = ("torch", "nilearn", "matplotlib", "sklearn", "scipy", "nbdev", "fastcore")


def normal(lines):
    return {f"{canonicalize_name(r.name)} {r.specifier}" for r in map(Requirement, lines)}


def pins():
    lines = [line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in map(Requirement, (line for line in lines if line and line[0] != "#"))}


@pytest.mark.parametrize(
    ("key", "lines"), [("requirements", PROJECT["dependencies"]), ("dev_requirements", EXTRAS["dev"])]
)
def test_settings_agree_with_pyproject(key, lines):
    assert normal(SETTINGS[key].split()) == normal(lines)


def test_settings_describe_the_same_project():
    assert SETTINGS["description"] == PROJECT["description"]
    assert SETTINGS["console_scripts"] == "mmccd=" + PROJECT["scripts"]["mmccd"]
    assert PROJECT["requires-python"] == ">=" + SETTINGS["min_python"]
    assert PROJECT["license"] == "Apache-2.0"
    assert SETTINGS["license"] == "apache2"
    assert SETTINGS["update_pyproject"] == "False"


def test_versions_agree():
    assert PROJECT["dynamic"] == ["version"]
    assert SETTINGS["version"] == VERSION
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{VERSION}]" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_pin_exactly():
    loose = [str(r) for r in pins().values() if not re.fullmatch(r"==[\w.!]+", str(r.specifier))]
    assert not loose, f"constraints.txt must pin with == and without a local version: {loose}"


def test_constraints_pin_all_that_is_needed():
    "Every package that the extras bring on Linux, and what those bring."
    here = {canonicalize_name(d.name): d.version.partition("+")[0] for d in distributions()}
    if sys.platform != "linux" or any(not r.specifier.contains(here[n]) for n, r in pins().items() if n in here):
        pytest.skip("needs the versions of constraints.txt on Linux: others need other packages")
    seen, todo = set(), [(line, "") for line in sum(EXTRAS.values(), PROJECT["dependencies"])]
    while todo:
        line, extra = todo.pop()
        need = Requirement(line)
        if need.marker and not need.marker.evaluate({"extra": extra}):
            continue
        for e in {"", *need.extras}:
            key = canonicalize_name(need.name), e
            todo += [(line, "") for line in EXTRAS.get(e, ()) if key[0] == "mmccd"]
            if key in seen:
                continue
            seen.add(key)
            with contextlib.suppress(PackageNotFoundError):  # what is not here is for another system
                todo += [(r, e) for r in requires(need.name) or []]
    free = sorted({n for n, _ in seen} - pins().keys())
    assert not [n for n in free if n not in ("mmccd", "setuptools", "pip", "wheel")], (
        f"constraints.txt does not pin {free}"
    )


def test_pins_are_allowed():
    for r in REQUIREMENTS:
        version = next(iter(pins()[canonicalize_name(r.name)].specifier)).version
        assert r.specifier.contains(version), (
            f"constraints.txt pins {r.name} {version}, pyproject.toml wants {r.specifier}"
        )


def test_every_requirement_says_from_which_version_on():
    "The oldest are installed and tested, each week: `.github/workflows/platforms.yml`."
    free = [str(r) for r in REQUIREMENTS if not any(s.operator == ">=" for s in r.specifier)]
    assert not free, f"without a lower bound: {free}"


def test_what_is_promised_is_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/platforms.yml").read_text())["jobs"]
    matrix, sets = jobs["systems"]["strategy"]["matrix"], jobs["dependencies"]["strategy"]["matrix"]["include"]
    kinds = [c.split(" :: ")[1:] for c in PROJECT["classifiers"]]
    versions = [k[-1] for k in kinds if k[0] == "Python" and re.fullmatch(r"3\.\d+", k[-1])]
    assert matrix["python"] == versions
    assert ">=" + versions[0] == PROJECT["requires-python"]
    systems = {"ubuntu": "POSIX :: Linux", "macos": "MacOS", "windows": "Microsoft :: Windows"}
    named = {" :: ".join(c.split(" :: ")[1:]) for c in PROJECT["classifiers"] if c.startswith("Operating System")}
    assert {systems[name.partition("-")[0]] for name in matrix["os"]} == named
    assert [(s["python"], s["resolution"]) for s in sets] == [(versions[0], "lowest-direct"), (versions[-1], "highest")]
    for job in jobs.values():
        assert job["steps"][-1]["run"].endswith("tests/unit")


@pytest.mark.parametrize(
    ("name", "holed"), [("torch", "2.9.1"), ("numcodecs", "0.16.5"), ("lightning", "2.6.2"), ("lightning", "2.6.3")]
)
def test_versions_with_known_holes_are_not_allowed(name, holed):
    "They would run code that lies in weights or in a store, or were tampered with."
    found = [r for r in REQUIREMENTS if canonicalize_name(r.name) == name]
    assert len(found) == 1
    assert not found[0].specifier.contains(holed)


def test_what_is_imported_is_declared():
    "Top-level names that mmccd/ imports, against the dependencies and what users can ask for besides."
    called = {"scikit-learn": "sklearn", "huggingface-hub": "huggingface_hub", "pillow": "PIL"}
    lines = sum((EXTRAS[e] for e in PACKAGES), PROJECT["dependencies"])
    known = {canonicalize_name(Requirement(r).name) for r in lines} | {"mmccd"}
    known = {called.get(n, n.replace("-", "_").removesuffix("_py")) for n in known} | set(sys.stdlib_module_names)
    known |= {"IPython", "cycler", "dask", "nbformat", "pygments"}  # those bring them
    known |= {"annotated_types", "typing_extensions"}  # pydantic brings and documents them
    odd = set()
    for path in (ROOT / "mmccd").rglob("*.py"):
        for n in ast.walk(ast.parse(path.read_text())):
            if isinstance(n, ast.Import):
                odd |= {(path.name, a.name) for a in n.names if a.name.split(".")[0] not in known}
            elif isinstance(n, ast.ImportFrom) and not n.level and n.module.split(".")[0] not in known:
                odd.add((path.name, n.module))
    assert not odd, "imports that pyproject.toml does not declare"


@pytest.mark.parametrize(
    "code",
    [
        "import mmccd",
        "import mmccd.cli",
        """
import sys
from mmccd.cli import main
sys.argv = ['mmccd', '--help']
try: main()
except SystemExit as e: assert not e.code, e.code""",
    ],
    ids=["package", "cli", "help"],
)
def test_import_is_light(code):
    probe = f'{code}\nimport sys\nprint("loaded:", *[m for m in {HEAVY} if m in sys.modules])'
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded:", (
        f"{done.stdout.splitlines()[-1]} (import them inside the functions that need them)"
    )


def test_weights_are_packaged():
    "With the wheel come the numbers, and the cards and curves that say what they are worth."
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mmccd"]
    assert {f"weights/**/*.{end}" for end in ("json", "safetensors", "md", "png")} <= set(patterns)
    fits = {p for pattern in patterns for p in (ROOT / "mmccd").glob(pattern)}
    kinds = {".json", ".safetensors", ".md", ".png"}
    assert {p for p in (ROOT / "mmccd/weights").rglob("*") if p.suffix in kinds} <= fits


def test_data_credits_the_atlas():
    words = " ".join((ROOT / "data/README.md").read_text().split())
    for needed in (
        "Fonov",
        "Collins",
        "Louis Collins, McConnell Brain Imaging Centre",
        "Permission to use, copy, modify, and distribute",
    ):
        assert needed in words


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda p: p.name)
def test_files_for_the_code_host_can_be_read(path):
    content = yaml.safe_load(path.read_text())
    if "workflows" in path.parts:
        assert content["permissions"] == {"contents": "read"}  # a job that publishes asks for more by itself
    if "ISSUE_TEMPLATE" in path.parts:
        assert {"name", "description", "body"} <= content.keys()


def recipe(target):
    "Commands of a target of the Makefile, as they are typed at the root of the repository."
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1].splitlines()
    names = {"$(VENV)": ".venv", "$(PY)": ".venv/bin/python", " > /dev/null": ""}
    for name, value in names.items():
        lines = [line.strip().replace(name, value) for line in lines]
    return lines


def test_each_commit_is_checked_as_by_make():
    "With the tools of .venv, without a network; what `make check` runs quickly, and nothing else."
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"] for hook in repository["hooks"]]
    assert entries == recipe("lint") + recipe("types") + recipe("test-sync")
    for hook in repository["hooks"]:
        assert (hook["language"], hook["pass_filenames"]) == ("system", False)
        program, *words = hook["entry"].split()
        assert (Path(sys.executable).parent / Path(program).name).exists(), f"{program} is not installed"
        assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))


def test_coverage_counts_the_plain_modules_only():
    "Those that nbdev wrote are tested by their chapters, which do not count here."
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    (whole,) = settings["report"]["exclude_also"]
    left_out = {p.name for p in (ROOT / "mmccd").rglob("*.py") if re.search(whole, p.read_text())}
    chapters = {p.stem.partition("_")[2] + ".py" for p in (ROOT / "nbs/components").glob("*.ipynb")}
    assert left_out == chapters | {"_modidx.py"}
