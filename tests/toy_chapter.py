"""A small chapter that keeps every rule, to break one rule at a time in tests of the tests."""

import copy
import json

TITLE = "# Toy\n\n> A chapter that shows the form\n\nYou will build a doubler."
EXPORT = """#| export
def double(
    x:float, # any real number
)->float:    # twice that number
    "Twice `x`."
    return 2 * x"""
EXERCISE = """# Exercise {n}: your code here
def triple(x): ..."""
CHECK = """# Check {n}
got = triple(2)
print('Correct.' if got == 6 else f'Not yet: triple(2) should be 6 and is {{got}}.')"""
ANSWER = """<details><summary>Answer {n}</summary>

```python
def triple(x): return 3 * x
```

</details>"""


def output(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def chapter(name="toy"):
    "The cells' sources of a chapter that exports to mmccd/NAME.py: (kind, source) pairs."
    cells = [
        ("markdown", TITLE),
        ("code", f"#| default_exp {name}"),
        ("code", "#| export\nimport math"),
        ("code", "#| hide\nimport math"),
        ("markdown", "Why, and the formula."),
        ("code", EXPORT),
        ("markdown", "Notice the two."),
        ("code", "assert double(2) == 4"),
    ]
    for law in (
        "double(0) == 0",
        "double(3) == 6",
        "double(4) == 8",
        "double(-1) == -double(1)",
        "double(math.inf) == math.inf",
    ):
        cells += [("markdown", "A law."), ("code", f"assert {law}")]
    cells += [("markdown", "## Paper and this notebook\n\nNothing differs."), ("markdown", "## Exercises")]
    for n in (1, 2):
        cells += [
            ("markdown", f"**Exercise {n}.** Triple a number."),
            ("code", EXERCISE.format(n=n)),
            ("code", CHECK.format(n=n)),
            ("markdown", ANSWER.format(n=n)),
        ]
    return [*cells, ("markdown", "Next: [the toy again](index.ipynb)")]


def lesson():
    "The cells' sources of a lesson: (kind, source) pairs."
    answer = ANSWER.replace("def triple(x): return 3 * x", "def triple(x):\n    y = 3 * x\n    return y")
    cells = [
        ("markdown", "# 1. Toy\n\n> A lesson that shows the form\n\nA [number](glossary.md#number)."),
        ("code", "import math"),
    ]
    for n, kind in enumerate(("warm-up", "equation", "break it", "open"), 1):
        cells += [
            ("markdown", f"**Exercise {n} ({kind}).** Triple a number."),
            ("code", EXERCISE.format(n=n)),
        ]
        if kind != "open":
            cells += [("code", CHECK.format(n=n)), ("markdown", answer.format(n=n))]
    return [*cells, ("markdown", "Next: [the toy again](index.ipynb)")]


def notebook(cells):
    "A notebook as nbdev writes it, from (kind, source) pairs."
    made = [
        {"cell_type": kind, "id": f"cell{i:04d}", "metadata": {}, "source": source.splitlines(keepends=True)}
        | ({"execution_count": None, "outputs": []} if kind == "code" else {})
        for i, (kind, source) in enumerate(cells)
    ]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def write(path, nb):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(copy.deepcopy(nb), sort_keys=True, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return path
