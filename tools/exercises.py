"""The exercises of a chapter: where they are, and whether an unfinished and a right solution are told apart."""

import ast
import contextlib
import importlib
import io
import re
from dataclasses import dataclass


@dataclass
class Exercise:
    number: int
    start: str = ""  # the code cell to fill in
    check: str = ""  # the code cell that prints the verdict
    answer: str = ""  # the folded answer's code


def find(nb):
    "The exercises of a style.Notebook, by number."
    found = {}

    def at(n):
        return found.setdefault(int(n), Exercise(int(n)))

    for c in nb.cells:
        if c.code:
            if m := re.search(r"^# Exercise (\d+): your code here", c.source, re.M):
                at(m[1]).start = c.python
            if m := re.search(r"^# Check (\d+)\b", c.source, re.M):
                at(m[1]).check = c.python
            continue
        for n in re.findall(r"\*\*Exercise (\d+)(?: \([^)]+\))?\.\*\*", c.source):
            at(n)
        for n, body in re.findall(r"<details>\s*<summary>Answer (\d+)</summary>(.*?)</details>", c.source, re.S):
            code = re.search(r"^```python\n(.*?)^```", body, re.S | re.M)
            at(n).answer = code[1] if code else ""
    return [found[n] for n in sorted(found)]


def namespace(nb):
    "What an exercise may use: the chapter's module and the imports of its `#| hide` cells; in a lesson all imports."
    lesson = nb.room == "course"
    names = {} if lesson else dict(vars(importlib.import_module(f"mmccd.{nb.module}")))
    names["__name__"] = "exercise"
    for c in (c for c in nb.code if lesson or "hide" in c.directives):
        imports = [n for n in c.tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, []), nb.name, "exec"), names)
    return names


def verdict(names, *codes):
    "What the last of `codes` prints when all are executed on top of `names`."
    names, said = dict(names), io.StringIO()
    for code in codes[:-1]:
        exec(code, names)
    with contextlib.redirect_stdout(said):
        exec(codes[-1], names)
    return said.getvalue().strip()


def problems(exercise, names):
    "Sentences: what is wrong with an exercise."
    for code, wanted, what in ((exercise.start, "Not yet", "unfinished"), (exercise.answer, "Correct", "answered")):
        try:
            said = verdict(names, *([exercise.start, code] if what == "answered" else [code]), exercise.check)
        except Exception as e:
            yield f"exercise {exercise.number}, {what}, raises {type(e).__name__}: {e}"
            continue
        if not said.startswith(wanted) or len(said.splitlines()) != 1:
            yield f'exercise {exercise.number}, {what}, must print one line that starts "{wanted}" and prints {said!r}'
        if wanted == "Not yet" and len(said) < len("Not yet: why"):
            yield f"exercise {exercise.number} does not say why it is not right yet"
