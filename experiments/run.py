"""Make a result in data/results again by its recipe.

    python experiments/run.py                        the recipes, and what each costs
    python experiments/run.py threshold_phantom      make data/results/threshold_phantom.json again
    python experiments/run.py quirks --check         make it in memory and compare its numbers with the kept ones
    python experiments/run.py quirks --tiny          the same on a few small phantoms, in a minute: does it run here?

A recipe is a YAML file in experiments/recipes. It names a probe, a module of experiments/probes with a function `run`,
or the command of a benchmark, and says with which options the kept numbers were made.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from command import run_script
from evidence import Job, circumstances

from mmccd.files import round_floats, to_json, write_atomic
from mmccd.runtime import pick_device
from mmccd.schemas import checked

ROOT = Path(__file__).resolve().parent.parent
RECIPES, RESULTS = ROOT / "experiments" / "recipes", ROOT / "data" / "results"
TOLERANCE = 1e-4  # relative; results are kept with five digits


@dataclass(frozen=True)
class Recipe:
    """How one file of data/results is made.

    Attributes:
        name: Of the recipe and of its result.
        question: What the result answers.
        cost: How long it takes on two slow cores.
        made: When and on what the kept numbers were made, and which of them were made again since.
        probe: Module of experiments/probes that measures; empty where a command does.
        command: Script and arguments, run from the root of the repository, that write the result to `--out FILE`.
        options: What the probe is given.
        tiny: What it is given instead for a trial in a minute.
        head: Facts that are copied into the result.
        before: Commands that make what the probe needs and does not make itself.
    """

    name: str
    question: str
    cost: str
    made: str
    probe: str = ""
    command: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The recipe's file as results name it."""
        return f"experiments/recipes/{self.name}.yaml"

    @property
    def digest(self) -> str:
        """SHA-256, cut short, of what decides a result: probe or command, and options. Words about it may change."""
        decides = json.dumps([self.probe, self.command, self.options], sort_keys=True)
        return hashlib.sha256(decides.encode()).hexdigest()[:16]


def recipe_names() -> list[str]:
    """All recipes, by name."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ValueError: There is none, or a key in it is unknown or has a wrong value.
    """
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {name!r}: choose {', '.join(recipe_names())}")
    file = RECIPES / f"{name}.yaml"
    found = yaml.safe_load(file.read_text())
    found = found | {"name": name} if isinstance(found, dict) else found
    recipe = checked(found, Recipe, file, "correct that key")
    if bool(recipe.probe) == bool(recipe.command):
        raise ValueError(f"{name}.yaml must name either a probe or a command")
    return recipe


def make(recipe: Recipe, job: Job, options: dict[str, Any]) -> dict[str, Any]:
    """The result of a recipe whose probe is given these options: how it was made, then what was found."""
    found = importlib.import_module(f"probes.{recipe.probe}").run(options, job)
    command = {"command": f"python experiments/run.py {recipe.name}"}
    facts = (
        {"recipe": recipe.path, "recipe_sha256": recipe.digest}
        | command
        | {"before": recipe.before}
        | circumstances(job.device)
        | recipe.head
    )
    return json.loads(json.dumps(round_floats(facts | found)))


def run_command(recipe: Recipe, out: Path, more: list[str]) -> None:
    """Run the command of a recipe; it writes its result to `out`."""
    words = [sys.executable, *recipe.command, *more, "--out", str(out)]
    if subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode:
        raise ValueError(f"the command of {recipe.path} failed")
    found = json.loads(out.read_text())
    write_atomic(out, to_json({"recipe": found.pop("recipe"), "recipe_sha256": recipe.digest} | found).encode())


# comparison with what is kept


def numbers(new: Any, old: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float, float]]:
    """Pairs of numbers at the same place of two results, as (path, new, old). Of lists, as far as both go."""
    if isinstance(new, dict) and isinstance(old, dict):
        for k in new:
            if k in old:
                yield from numbers(new[k], old[k], (*path, k))
    elif isinstance(new, list) and isinstance(old, list):
        for a, b in zip(new, old):
            yield from numbers(a, b, path)
    elif isinstance(old, (int, float)) and isinstance(new, (int, float)) and not isinstance(old, bool):
        yield path, float(new), float(old)


def compare(new: dict, old: dict) -> list[tuple[str, int, float, float]]:
    """By part of the result: how many numbers were compared, and the largest difference, absolute and relative."""
    parts: dict[str, list[tuple[float, float]]] = {}
    for path, a, b in numbers(new, old):
        part = path[0] if len(path) == 1 else f"{path[0]} … {path[-1]}"
        parts.setdefault(part, []).append((abs(a - b), abs(a - b) / max(abs(b), 1e-3)))
    return [(k, len(v), max(d for d, _ in v), max(r for _, r in v)) for k, v in parts.items()]


def check(new: dict, old: dict) -> bool:
    """Print how far a result is from the kept one. Are all numbers equal, but for the rounding of the fifth digit?"""
    found = compare(new, old)
    for part, n, most, relative in found:
        print(f"{part:40} {n:6} numbers, largest difference {most:.2g} ({relative:.1e} of the value)")
    return all(relative <= TOLERANCE for *_, relative in found)


# the command


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", help="name of a recipe; without it, all are listed")
    parser.add_argument("--out", type=Path, help="folder for the result (default: data/results)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "experiments", help="folder for stores and runs")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda or mps")
    parser.add_argument("--check", action="store_true", help="compare with data/results instead of writing there")
    parser.add_argument(
        "--tiny", action="store_true", help="a trial on a few small phantoms; needs --out to be written"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=YAML", help="options of the probe that differ from the recipe"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if not args.recipe:
        for name in recipe_names():
            print(f"{name:20} {load_recipe(name).cost}")
        return 0
    recipe, trial = load_recipe(args.recipe), args.tiny or args.set
    folder = args.out or (None if args.check or trial else RESULTS)
    if folder and not folder.is_dir():
        raise ValueError(f"cannot write into {folder}: there is no such folder")
    if recipe.command:
        run_command(recipe, (folder or args.work) / f"{recipe.name}.json", ["--quick"] * args.tiny)
        return 0
    changes = dict(word.split("=", 1) for word in args.set)
    options = recipe.options | (recipe.tiny if args.tiny else {}) | {k: yaml.safe_load(v) for k, v in changes.items()}
    work = args.work / "tiny" if args.tiny else args.work
    work.mkdir(parents=True, exist_ok=True)
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    result = make(recipe, Job(work, args.jobs, pick_device(args.device), say), options)
    if folder:
        write_atomic(folder / f"{recipe.name}.json", to_json(result).encode())
    same = not args.check or check(result, json.loads((RESULTS / f"{recipe.name}.json").read_text()))
    return 0 if same else 1


if __name__ == "__main__":
    run_script(main)
