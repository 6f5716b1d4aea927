"""The class pack: everything for a class without a network in one folder."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mmccd
from mmccd.classroom import install
from mmccd.classroom.lessons import Lesson, lesson_files, read_lesson
from mmccd.classroom.pages import make_page, page, to_html
from mmccd.classroom.sheets import exercise_sheets, quiz_sheet
from mmccd.classroom.slides import html_slides, pdf_slides
from mmccd.files import PathLikeStr, output_folder, remove_leftovers, swap_in, user_path, working_folder, writing

TITLE = "Unsupervised anomaly segmentation in brain MRI"
COPIED = ("nbs", "data", "README.md", "LICENSE", "CITATION.cff")  # what the notebooks read or link to
SOURCES = ("pyproject.toml", "README.md", "LICENSE")  # what the wheel is made of beside mmccd/
LEFT_OUT = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__", "_proc", ".last_checked")
ROOMS = ("course", "course/teach", "guides", "components")  # folders of notebooks and Markdown that become pages

Say = Callable[[str], None]  # told what is done next


def checkout() -> Path:
    """Return the checkout that this package is used from: the notebooks are not part of the installed package.

    Raises:
        ValueError: The package was installed without them.
    """
    root = Path(mmccd.__file__).resolve().parent.parent
    if lesson_files(root / "nbs" / "course") and (root / "pyproject.toml").is_file():
        return root
    raise ValueError(
        "a class pack is made from a clone of the repository, and this mmccd was installed without its notebooks: "
        "clone it, run `pip install -e '.[notebooks]'` there, and use that mmccd"
    )


def copy_lessons(root: Path, out: Path) -> None:
    """Copy the notebooks with what they read and link to, laid out as in the repository.

    Those of the course lose their outputs, or every guess would have its answer below it; the pages keep them.
    """
    out.mkdir(parents=True)
    for source in (root / name for name in COPIED):
        if source.is_dir():
            shutil.copytree(source, out / source.name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, out)
    for path in lesson_files(out / "nbs" / "course"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell |= {"outputs": [], "execution_count": None}
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def write_pages(nbs: Path, out: Path) -> list[Path]:
    """Write a page for each notebook and Markdown file of the course, the guides and the chapters, and return them.

    A link to what is no page and does not lie in the pack becomes plain text.
    """
    made = []
    sources = [p for room in ROOMS for p in sorted((nbs / room).glob("*.*")) if p.suffix in (".ipynb", ".md")]
    for source in sources:
        target = out / source.relative_to(nbs).with_suffix(".html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(make_page(source), encoding="utf-8")
        made.append(target)
    for target in made:
        text = _without_dead_links(target.read_text(encoding="utf-8"), target.parent)
        home = "../" * len(target.relative_to(out).parts) + "START.html"
        text = text.replace("<body>", f'<body>\n<nav><a href="{home}">Start</a></nav>', 1)
        target.write_text(text, encoding="utf-8")
    return made


def _without_dead_links(text: str, folder: Path) -> str:
    """Return a page without its links to files that do not exist."""

    def kept(m: re.Match[str]) -> str:
        lives = re.match(r"[a-z]+:|#", m[1]) or (folder / m[1].partition("#")[0]).exists()
        return m[0] if lives else m[2]

    return re.sub(r'<a href="([^"]+)"[^>]*>(.*?)</a>', kept, text, flags=re.S)


def write_teacher(lessons: Sequence[Lesson], teach: Path, out: Path) -> None:
    """Write slides, exercise sheets and the quiz."""
    out.mkdir()
    with open(out / "slides.pdf", "wb") as file:
        pdf_slides(lessons, TITLE, file)
    pages = {
        "slides.html": html_slides(lessons, TITLE),
        "exercises.html": exercise_sheets(lessons),
        "exercises_with_answers.html": exercise_sheets(lessons, answered=True),
        "quiz.html": quiz_sheet(teach / "quiz.md"),
        "quiz_with_answers.html": quiz_sheet(teach / "quiz.md", answered=True),
    }
    for name, text in pages.items():
        (out / name).write_text(_without_dead_links(text, out), encoding="utf-8")


def write_explorer(path: Path) -> None:
    """Write the explorer of a phantom as one page."""
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.page import write_page
    from mmccd.explorer.subjects import phantom_subject

    explorer = Explorer(phantom_subject("glioma"), device="cpu")
    write_page(explorer, explorer.first_view(), path)


def pip(*arguments: object) -> None:
    """Run pip; ValueError with the last thing it said where it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()] or ["nothing was said"]
        errors = [line.removeprefix("ERROR: ") for line in said if line.startswith("ERROR")] or said
        raise ValueError(f"pip could not get the wheels: {errors[0]}; with a network this works, or choose --no-wheels")


def write_wheels(root: Path, out: Path, options: Sequence[str] = ()) -> None:
    """Collect the wheels of this package and of all that it and its notebooks need, for this Python and this system.

    Args:
        root: The checkout.
        out: New folder for the wheels.
        options: Further words for pip, such as an index with torch for the CPU only.
    """
    with TemporaryDirectory() as folder:  # a copy, since building leaves traces in the sources, and finds older ones
        source = Path(folder)
        for name in SOURCES:
            shutil.copy(root / name, source)
        shutil.copytree(root / "mmccd", source / "mmccd", ignore=LEFT_OUT)
        pip("wheel", "-q", "--no-deps", "-w", out, *options, source)
    own = next(out.glob("mmccd-*.whl"))
    needs = ("download", "-q", "--prefer-binary", "-d", out, "-c", root / "constraints.txt", *options)
    pip(*needs, f"{own}[notebooks]")
    for source in [*out.glob("*.tar.gz"), *out.glob("*.zip")]:  # no compiler is needed in class
        pip("wheel", "-q", "--no-deps", "-w", out, *options, source)
        source.unlink()
    (out / "python.txt").write_text(f"{sys.version_info.major}.{sys.version_info.minor}\n", encoding="utf-8")


def start_page(pages: Sequence[Path], wheels: bool) -> str:
    """Return the first page of the pack, with links to `pages`, which lie in its folder html/."""
    listed: dict[str, list[str]] = {}
    for path in pages:
        title = re.search(r"<title>(.*?)</title>", path.read_text(encoding="utf-8"))
        link = f"[{title[1] if title else path.stem}](html/{path.parent.name}/{path.name})"
        listed.setdefault(path.parent.name, []).append(link)
    lessons, guides, chapters = (", ".join(listed[room]) for room in ("course", "guides", "components"))
    install_it = (
        "1. Copy this folder to each machine. It needs Python, and no network.\n"
        "2. In the folder, type `python install.py` (`python3` on some machines). It makes an environment in there, "
        "installs into it, and says how to begin.\n"
        if wheels
        else "This pack has no wheels: each machine needs `mmccd[notebooks]` for them.\n"
    )
    return page(
        TITLE,
        to_html(f"""# {TITLE}

Made by mmccd {mmccd.__version__}. For research and teaching, not a medical device.

## Without installing anything

- [The explorer](html/explorer.html): hide a strip of a brain and watch a network imagine it.
- The lessons as pages, to read: {lessons}.
- [Slides](teacher/slides.html) of all lessons; arrow keys turn them.

## The lessons as notebooks

{install_it}
The notebooks are in `lessons/nbs/course`.

## For the teacher

- [What is here](html/course/teach/README.html), [plans](html/course/teach/plan.html),
  [notes](html/course/teach/notes.html)
- Slides: [page](teacher/slides.html), [PDF](teacher/slides.pdf)
- Exercises: [to print](teacher/exercises.html), [with answers](teacher/exercises_with_answers.html)
- Quiz: [to print](teacher/quiz.html), [with answers](teacher/quiz_with_answers.html)

## To look things up

- Guides: {guides}
- Chapters: {chapters}
"""),
    )


def write_pack(out: PathLikeStr, wheels: bool = True, options: Sequence[str] = (), say: Say = print) -> Path:
    """Write the class pack, whole or not at all.

    Args:
        out: Folder of the pack; made where missing.
        wheels: With all that must be installed, some hundreds of megabytes.
        options: Further words for pip.
        say: Is told each step.

    Raises:
        ValueError: There is something in `out`, it cannot be written, the notebooks are missing, or pip fails.
    """
    root, out = checkout(), user_path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"there is something in {out}: remove it, or choose another folder")
    lessons = [read_lesson(path) for path in lesson_files(root / "nbs" / "course")]
    with output_folder(out.parent) as parent, writing(out.parent):
        remove_leftovers(parent)
        with working_folder(parent) as part:
            new = part / "new" / out.name
            say("the lessons, as notebooks")
            copy_lessons(root, new / "lessons")
            say("the lessons, as pages")
            pages = write_pages(root / "nbs", new / "html")
            say("slides, exercise sheets, quiz")
            write_teacher(lessons, root / "nbs" / "course" / "teach", new / "teacher")
            say("the explorer")
            write_explorer(new / "html" / "explorer.html")
            if wheels:
                say("wheels: some hundreds of megabytes, the first time from the network")
                write_wheels(root, new / "wheels", options)
                shutil.copy(install.__file__, new / "install.py")
            (new / "START.html").write_text(start_page(pages, wheels), encoding="utf-8")
            swap_in(new, out, part)
    return out
