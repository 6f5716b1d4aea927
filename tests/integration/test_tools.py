"""The scripts of tools/: README from the index, and what counts as out of sync, failed or skipped."""

import base64
import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import check_wheel
import in_sync
import notebooks
import pytest
import readme
import toy_chapter
from toy_chapter import notebook, output, write

ROOT = Path(__file__).resolve().parents[2]
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=")
picture = {
    "output_type": "display_data",
    "metadata": {},
    "data": {"image/png": base64.b64encode(PNG).decode(), "text/plain": ["<Figure>"]},
}
table = {
    "output_type": "execute_result",
    "metadata": {},
    "execution_count": None,
    "data": {"text/markdown": ["|a|\n", "|-|\n", "|1|"], "text/plain": ["<Table>"]},
}


def index(root):
    nb = notebook(
        [
            ("raw", "---\nx: 1\n---"),
            (
                "markdown",
                "# Toy\n\n> sub\n\n[one](components/00_toy.ipynb) [data](../data/README.md) "
                "[web](https://a.b) [in](#x)",
            ),
            ("code", "#| hide\nimport secret"),
            ("code", '#| echo: false\n#| fig-alt: "A brain"\nshow()'),
            ("code", "print(1)"),
            ("code", "table()"),
            ("markdown", 'End. <img src="images/x.png">'),
        ]
    )
    for i, out in ((3, picture), (4, output("1\n")), (5, table)):
        nb["cells"][i]["outputs"] = [out]
    return write(root / "nbs/index.ipynb", nb)


def test_readme_from_index(tmp_path):
    index(tmp_path)
    assert readme.main(tmp_path) == 0
    assert (tmp_path / "README.md").read_text() == textwrap.dedent("""\
        # Toy

        > sub

        [one](nbs/components/00_toy.ipynb) [data](data/README.md) [web](https://a.b) [in](#x)

        ![A brain](nbs/images/index_0.png)

        ```python
        print(1)
        ```

        ```text
        1
        ```

        ```python
        table()
        ```

        |a|
        |-|
        |1|

        End. <img src="nbs/images/x.png">
        """)
    assert (tmp_path / "nbs/images/index_0.png").read_bytes() == PNG


def test_readme_check_names_the_file(tmp_path, capsys):
    index(tmp_path)
    assert readme.main(tmp_path, check=True) == 1
    assert not (tmp_path / "README.md").exists()
    assert "README.md does not match" in capsys.readouterr().out
    readme.main(tmp_path)
    assert readme.main(tmp_path, check=True) == 0
    (tmp_path / "nbs/images/index_7.png").write_bytes(PNG)
    assert readme.main(tmp_path, check=True) == 1
    assert "index_7.png" in capsys.readouterr().out
    readme.main(tmp_path)
    assert not (tmp_path / "nbs/images/index_7.png").exists()


@pytest.fixture(scope="module")
def made_project(tmp_path_factory):
    "A little project in sync: one chapter, an index, its module."
    root = tmp_path_factory.mktemp("project")
    for name in ("settings.ini", "mmccd/__init__.py", "tools/readme.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text((ROOT / name).read_text())
    write(root / "nbs/components/00_toy.ipynb", notebook(toy_chapter.chapter()))
    (root / "mmccd/plain.py").write_text("by_hand = True\n")
    index(root)
    in_sync.regenerate(root)
    return root


@pytest.fixture
def project(made_project, tmp_path):
    "A copy of it."
    return shutil.copytree(made_project, tmp_path, dirs_exist_ok=True)


def test_hidden_cells_and_checks_are_folded(project):
    path = project / "nbs/index.ipynb"
    nb = json.loads(path.read_text())
    nb["cells"] += notebook([("code", "# Check 1\nprint(1)"), ("code", "x = 1")])["cells"]
    nb["cells"][-1]["metadata"] = {"jupyter": {"source_hidden": True}}
    write(path, nb)
    assert any("index.ipynb" in line for line in in_sync.differences(project))
    in_sync.regenerate(project)
    cells = json.loads(path.read_text())["cells"]
    folded = ["".join(c["source"]).split("\n")[0] for c in cells if c["metadata"].get("jupyter")]
    assert folded == ["#| hide", "# Check 1"]
    assert in_sync.differences(project) == []


def test_in_sync(project):
    assert (project / "mmccd/toy.py").exists()
    assert in_sync.differences(project) == []
    toy = project / "mmccd/toy.py"
    good, toy_nb = toy.read_text(), (project / "nbs/components/00_toy.ipynb").read_text()
    toy.write_text(good + "\nx = 1\n")
    (project / "mmccd/gone.py").write_text(f"{in_sync.MARK} ../nbs/gone.ipynb")
    (project / "README.md").write_text("mine")
    (project / "nbs/components/00_toy.ipynb").write_text(
        toy_nb.replace('"execution_count": null', '"execution_count": 3', 1)
    )
    found = in_sync.differences(project)
    assert found == [
        "README.md does not match its notebook.",
        "mmccd/gone.py belongs to no notebook any more: delete it.",
        "mmccd/toy.py does not match its notebook.",
        "nbs/components/00_toy.ipynb is not clean.",
    ]
    assert toy.read_text().endswith("x = 1\n"), "the check must not change the tree"


@pytest.mark.parametrize(
    ("source", "limit", "words"),
    [
        ("assert double(1) == 2", 120, ""),
        ("assert double(1) == 3", 120, "failed"),
        ("import time; time.sleep(60)", 2, "ran out of time (2 s)"),
        ("import os; os.abort()", 120, "failed"),
    ],
)
def test_notebook_runner(project, source, limit, words):
    nb = notebook([("markdown", "# T\n\n> t"), ("code", "from mmccd.toy import double"), ("code", source)])
    problem, log, _ = notebooks.attempt("test", write(project / "nbs/01_t.ipynb", nb), limit, project)
    assert problem == words, log


@pytest.mark.parametrize(
    ("kind", "source", "words"),
    [
        ("raw", "---\nskip_exec: true\n---", "was skipped by nbdev_test"),
        ("code", "#| eval: false\n1/0", "has no cell that runs"),
        ("code", "#| cuda\n1/0", "has no cell that runs"),
    ],
)
def test_a_skipped_notebook_fails(project, kind, source, words):
    cells = [(kind, source)] + ([("code", "1")] if kind == "raw" else [])
    assert notebooks.attempt("test", write(project / "nbs/01_t.ipynb", notebook(cells)), 120, project)[0] == words


@pytest.mark.parametrize(
    ("name", "words"), [("_01_t", "hides it"), ("_more/01_t", "hides it"), ("01_t", "was skipped by nbdev_test")]
)
def test_a_hidden_notebook_fails(project, name, words):
    path = write(project / f"nbs/{name}.ipynb", notebook([("code", "1")]))
    (project / "nbs/.notest").touch()
    assert path in notebooks.wanted([], project)
    assert words in notebooks.attempt("test", path, 120, project)[0]


def test_unknown_names(project):
    assert [p.stem for p in notebooks.wanted(["00_toy"], project)] == ["00_toy"]
    with pytest.raises(SystemExit, match="No notebook is called 99_no"):
        notebooks.wanted(["99_no"], project)


def test_each_notebook_is_tested_by_make_test_or_by_make_test_slow():
    "The long ones start first; long chapters, and the lesson that trains for minutes, are left to `make test-slow`."
    everything = notebooks.wanted([], ROOT)
    quick, slow = (notebooks.of_part(everything, part) for part in ("quick", "slow"))
    assert sorted(quick + slow) == sorted(everything)
    assert {p.stem for p in slow if p.parent.name != "components"} == {"05_hide_and_imagine"}
    assert len(slow) < len(quick) / 2
    assert notebooks.LONG.keys() <= {p.stem for p in everything}
    assert [p.stem for p in notebooks.of_part(everything, "all")][: len(notebooks.LONG)] == list(notebooks.LONG)
    makefile = (ROOT / "Makefile").read_text()
    rules = dict(re.findall(r"^(test-\w+):.*\n((?:\t.*\n)+)", makefile, re.M))
    assert "notebooks.py test --part quick" in rules["test-notebooks"]
    assert "notebooks.py test --part slow" in rules["test-slow"]


def test_run_in_place(project):
    nb = notebook(
        [
            ("markdown", "# T"),
            ("code", 'import sys; print("noise", file=sys.stderr); print("kept"); 1 + 1'),
            ("code", "#| eval: false\n1/0"),
        ]
    )
    nb["metadata"]["widgets"] = {}
    path = write(project / "nbs/01_t.ipynb", nb)
    notebooks.run_in_place(path, project)
    done = json.loads(path.read_text())
    assert "widgets" not in done["metadata"]
    assert [c["id"] for c in done["cells"]] == [c["id"] for c in nb["cells"]]
    outs = done["cells"][1]["outputs"]
    assert [o.get("text", o.get("data", {}).get("text/plain")) for o in outs] == [["kept\n"], ["2"]]
    assert done["cells"][1]["execution_count"] is None
    assert not any(o.get("execution_count") for o in outs)
    assert done["cells"][2]["outputs"] == []
    subprocess.run([Path(sys.executable).with_name("nbdev_clean")], cwd=project, check=True)
    assert json.loads(path.read_text()) == done


def test_the_readme_of_a_release_needs_no_repository():
    text = "![p](nbs/images/index_0.png) [a](nbs/course/01_see_it.ipynb#x) [b](CONTRIBUTING.md) [c](https://d.e/f)"
    text = check_wheel.on_the_index(text)
    assert "](https://github.com/mmccd/mmccd/raw/main/nbs/images/index_0.png)" in text
    assert "](https://mmccd.github.io/mmccd/course/01_see_it.html#x)" in text
    assert "](https://github.com/mmccd/mmccd/blob/main/CONTRIBUTING.md)" in text
    assert "](https://d.e/f)" in text
    whole = check_wheel.on_the_index((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not check_wheel.LINK.search(whole)


def test_weights_are_told_from_other_files():
    names = [
        "mmccd/weights/a/config.json",
        "mmccd/weights/a/model.safetensors",
        "mmccd/weights/a/notes.txt",
        "mmccd/cli.py",
        "x.json",
    ]
    assert check_wheel.weights(names) == set(names[:2])


def test_the_readme_does_what_it_says():
    "Its Python lines run from the folder a reader stands in, and print what it shows."
    text = (ROOT / "README.md").read_text()
    code, shown = re.search(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.S).groups()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == shown
