"""The documentation site, from what is committed: `python tools/make_site.py` writes build/site/html.

No notebook is run: pages show the outputs that the notebooks keep. Notebooks and Markdown are copied to
build/site/source, where links lead from page to page, or to the repository for what has no page; Sphinx makes HTML of
that, with the settings in site/conf.py; then every link and anchor is tried (tools/check_site.py)."""

import argparse
import ast
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from formula_font import write_font

ROOT = Path(__file__).resolve().parent.parent
PLACES = {
    "README.md": "index.ipynb",
    "nbs/index.ipynb": "index.ipynb",
    "nbs/course/teach/README.md": "course/teach/index.md",
    "CHANGELOG.md": "changelog.md",
    "data/README.md": "results.md",
}  # where the page of a file lies, if not below the same folder of the site as of nbs/
LINK = re.compile(r'(\]\(|\b(?:src|href)=")(?!\w+:|#|/)([^)\s"#]+)(#[^)\s"]*)?')
CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.M | re.S)
MOVED = {"data", "detect", "explore", "store"}  # modules that only forward names of version 0.1.0


def homepage(root=ROOT):
    "Address of the repository."
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Homepage"]


def place(path):
    "Where the page of a file of the repository lies in the site; None for files without a page."
    if path in PLACES:
        return PLACES[path]
    made = re.fullmatch(r"nbs/(.+\.(?:ipynb|md))", path)
    return made[1] if made else None


def relink(text, source, root=ROOT):
    "Markdown of the file `source` (a path in the repository), with links as its page in the site needs them."
    here = posixpath.dirname(place(source))

    def lead(m):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), m[2]))
        if not (root / target).exists():
            raise FileNotFoundError(f"{source} links to {m[2]}, and there is no such file")
        page, anchor = place(target), m[3] or ""
        if page:
            return m[1] + posixpath.relpath(page, here or ".") + anchor
        return f"{m[1]}{homepage(root)}/{'tree' if (root / target).is_dir() else 'blob'}/main/{target}{anchor}"

    parts = CODE.split(text)
    return "".join(part if i % 2 else LINK.sub(lead, part) for i, part in enumerate(parts))


def without_dead(text, source, root=ROOT):
    "Markdown that a cell wrote, say of a folder which is not kept: links to what is not there become their text."

    def lead(m):
        outside = re.match(r"\w+:|#", m[2])
        return m[0] if outside or (root / posixpath.dirname(source) / m[2].split("#")[0]).exists() else m[1]

    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)", lead, text)


def note(source, module=""):
    "What stands below the title of a notebook: where it is kept, and which page documents what it defines."
    said = f"This page is the notebook [`{source}`]({homepage()}/blob/main/{source}), with the outputs that it keeps."
    if module:
        said += f" What it defines is listed under [`mmccd.{module}`](../api/mmccd.{module}.rst)."
    return f"```{{container}} site-note\n{said}\n```"


def tags(source, front=False):
    "How a code cell is shown, by its first line: tags of MyST-NB, and the words on the fold."
    if re.match(r"#\|\s*default_exp\b", source) or (front and re.match(r"#\|\s*hide\b", source)):
        return ["remove-cell"], ""
    if re.match(r"#\|\s*hide\b", source):
        return ["hide-input"], "Imports and helpers"
    if check := re.match(r"# (Check \d+)", source):
        return ["hide-input"], check[1]
    return (["remove-input"], "") if re.search(r"^#\|\s*echo:\s*false", source, re.M) else ([], "")


def picture_words(cells, i):
    "What a picture shows, in words: its own, or the caption below it."
    from mmccd.classroom.lessons import caption
    from mmccd.classroom.pages import plain

    own = re.search(r"^#\|\s*fig-alt:\s*(.+)$", "".join(cells[i]["source"]), re.M)
    return own[1].strip("\"' ") if own else plain(caption(cells, i)) or "a figure without a caption"


def notebook(raw, source, root=ROOT):
    "The notebook as the site shows it: directives gone, what its author hid folded, links alive."
    cells, front = raw["cells"], source == "nbs/index.ipynb"
    module = re.search(r"^#\| default_exp (\w+)", "\n".join("".join(c["source"]) for c in cells), re.M)
    shown = []
    for i, cell in enumerate(cells):
        text, cell = "".join(cell["source"]), dict(cell, metadata={})
        if cell["cell_type"] == "markdown":
            cell["source"] = relink(text, source, root)
        elif cell["cell_type"] == "code":
            names, fold = tags(text, front)
            settings = {"image": {"alt": picture_words(cells, i)}}
            settings |= {"code_prompt_show": fold, "code_prompt_hide": fold} if fold else {}
            cell["metadata"] = {"tags": names, "mystnb": settings}
            cell["source"] = re.sub(r"^#\|.*\n?", "", text, flags=re.M)
            for out in cell["outputs"]:
                if words := out.get("data", {}).get("text/markdown"):
                    out["data"]["text/markdown"] = relink(without_dead("".join(words), source, root), source, root)
        shown.append(cell)
    if not front:
        title, below = re.match(r"(# .+\n(?:\n*>.*\n?)*)(.*)", shown[0]["source"] + "\n", re.S).groups()
        shown[0]["source"] = f"{title}\n{note(source, module[1] if module else '')}\n\n{below}"
    return raw | {"cells": shown}


def toctree(caption, *pages):
    "Markdown that puts pages into the list at the left."
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])


# pages of the modules


def modules(root=ROOT):
    "Names of the public modules, packages before what they hold."
    found = {}
    for path in (root / "mmccd").rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(p.startswith("_") for p in name.split(".")) and name.removeprefix("mmccd.") not in MOVED:
            found[name] = path
    return dict(sorted(found.items()))


def chapters(root=ROOT):
    "Chapter of each module that one defines."
    found = {}
    for path in sorted(root.glob("nbs/components/*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        name = re.search(r"^#\| default_exp (\w+)", "\n".join("".join(c["source"]) for c in cells), re.M)
        if name:
            found[f"mmccd.{name[1]}"] = path.stem
    return found


def summary(path):
    "First sentence of a module's docstring."
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n")[0]


def module_page(name, path, names, chapter, root=ROOT):
    "reStructuredText of the page of a module; `names`: all modules."
    source = path.relative_to(root).as_posix()
    said = f"Source: `{source} <{homepage(root)}/blob/main/{source}>`__."
    if chapter:
        said = f"Explained, built and tested in the chapter :doc:`/components/{chapter}`. {said}"
    inside = [n for n in names if n.startswith(name + ".")]
    text = f"{name}\n{'=' * len(name)}\n\n.. container:: site-note\n\n   {said}\n\n"
    text += f".. automodule:: {name}\n   :members:\n   :undoc-members:\n   :ignore-module-all:\n\n"
    return text + (listing(inside, names) if inside else "")


def listing(shown, names):
    "reStructuredText: a list of modules with what each is for, and the same in the list at the left."
    from docments import markup

    rows = "".join(f"* :doc:`{n}`: {markup(summary(names[n]))}\n" for n in shown)
    return f"{rows}\n.. toctree::\n   :hidden:\n\n" + "".join(f"   {n}\n" for n in shown) + "\n"


def write_api(out, root=ROOT):
    "Write a page for each module, and one that lists them."
    names, taught = modules(root), chapters(root)
    out.mkdir(parents=True)
    plain = [n for n in names if n != "mmccd" and n.count(".") == 1 and n not in taught]
    rooms = [n for n in plain if names[n].name == "__init__.py"]
    for name, path in names.items():
        if name != "mmccd":
            (out / f"{name}.rst").write_text(module_page(name, path, names, taught.get(name), root), encoding="utf-8")
    parts = {
        "What the chapters define": [n for n in taught if n in names],
        "Packages": rooms,
        "Plain modules": [n for n in plain if n not in rooms],
    }
    text = "API\n===\n\nAll public functions and classes, with shapes, units and ranges as the source states them.\n\n"
    for title, shown in parts.items():
        text += f"{title}\n{'-' * len(title)}\n\n{listing(shown, names)}"
    (out / "index.rst").write_text(text, encoding="utf-8")


# the whole site


EXPLORER = """# The explorer in your browser

> Hide a strip, watch what the networks imagine there, choose a threshold

Everything was computed beforehand for one slice of one phantom with a glioma. What you can do with it in a notebook,
and with scans of your own, is told in the guide [The explorer](guides/explorer.ipynb).
On a small screen, <a href="_static/explorer.html">open it on a page of its own</a>.

<iframe class="site-explorer" src="_static/explorer.html" title="the explorer" loading="lazy"></iframe>
"""


def kept_files(root):
    "Notebooks and Markdown that become pages, without what Jupyter keeps beside them."
    found = [root / p for p in PLACES if p != "README.md"]
    found += [p for end in ("ipynb", "md") for p in root.glob(f"nbs/*/**/*.{end}")]
    return sorted({p for p in found if ".ipynb_checkpoints" not in p.parts})


def assemble(out, root=ROOT):
    "Write what Sphinx reads into the folder `out`, which must not exist."
    for path in kept_files(root):
        source = path.relative_to(root).as_posix()
        target = out / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            made = notebook(json.loads(text), source, root)
            if target == out / "index.ipynb":
                made["cells"].append({"cell_type": "markdown", "id": "pages", "metadata": {}, "source": contents(root)})
            text = json.dumps(made, ensure_ascii=False)
        else:
            text = relink(text, source, root)
            if source == "nbs/course/teach/README.md":
                text += "\n" + toctree("For teachers", "plan", "notes", "quiz")
        target.write_text(text, encoding="utf-8")
    (out / "explorer.md").write_text(EXPLORER, encoding="utf-8")
    write_api(out / "api", root)


def contents(root=ROOT):
    "The list at the left: lessons and chapters by their numbers, guides in the order of the start page."
    front = (root / "nbs/index.ipynb").read_text(encoding="utf-8")

    def pages(folder):
        paths = [p for p in kept_files(root) if p.parent == root / "nbs" / folder and p.stem != "glossary"]
        names = [p.relative_to(root / "nbs").with_suffix("").as_posix() for p in paths]
        return sorted(names, key=front.find) if folder == "guides" else names

    numbered = []
    for page in pages("components"):
        cell = json.loads((root / f"nbs/{page}.ipynb").read_text(encoding="utf-8"))["cells"][0]
        number, title = page.split("/")[1].split("_")[0], re.match(r"# (.+)", "".join(cell["source"]))[1]
        numbered.append(f"{number} {title} <{page}>")
    return "\n".join(
        [
            toctree("Course", *pages("course"), "course/glossary", "course/teach/index"),
            toctree("See it", "explorer"),
            toctree("Guides", *pages("guides")),
            toctree("Chapters", *numbered),
            toctree("Reference", "api/index", "Results and data <results>", "changelog"),
        ]
    )


def make_explorer(path):
    "Write the explorer's page, unless it is there and newer than the package."
    from mmccd.classroom.pack import write_explorer

    newest = max(p.stat().st_mtime for p in (ROOT / "mmccd").rglob("*") if "__pycache__" not in p.parts)
    if not path.exists() or path.stat().st_mtime < newest:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        write_explorer(path)


def main():
    "Assemble, build, check; 0 where all is well."
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/site", help="folder; default: build/site")
    parser.add_argument("--no-explorer", action="store_true", help="an empty page in its place (for tests)")
    asked = parser.parse_args()
    out, begin = asked.out.resolve(), time.monotonic()
    source, static, html = out / "source", out / "static", out / "html"
    for folder in (source, html):
        shutil.rmtree(folder, ignore_errors=True)
    assemble(source)
    if asked.no_explorer:
        static.mkdir(parents=True, exist_ok=True)
        (static / "explorer.html").write_text("<!doctype html><title>explorer</title>", encoding="utf-8")
    else:
        make_explorer(static / "explorer.html")
    if not write_font(static / "formulas.woff"):
        print("formulas are drawn with a font of the reader's machine: pip install ziamath brings one along")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-c", ROOT / "site"]
    command += ["-d", out / "doctrees", source, html]
    env = os.environ | {"MMCCD_SITE_STATIC": str(static)}
    if subprocess.run(command, env=env, cwd=ROOT).returncode:
        return 1
    for path in [*html.rglob("*.map"), *html.glob("_static/*webpack-macros.html")]:  # for whoever develops the theme
        path.unlink()
    from check_site import report

    print(f"{html / 'index.html'}: {time.monotonic() - begin:.0f} s")
    return report(html)


if __name__ == "__main__":
    sys.exit(main())
