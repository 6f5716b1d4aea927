"""A lesson taken apart: its figures with their captions and guesses, and its exercises, in the order of the page."""

import json
import re
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A figure of a lesson.

    Attributes:
        heading: Of the section it stands in.
        guess: What the reader is asked to guess before it, Markdown; "" where nothing is asked.
        png: The picture.
        caption: What is seen, Markdown.
    """

    heading: str
    guess: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Exercise:
    """An exercise of a lesson.

    Attributes:
        name: As it stands on the page, "Exercise 2 (equation)".
        question: Markdown.
        start: The code to complete; "" where there is none.
        answer: Markdown, with the code; "" for an open one without.
    """

    name: str
    question: str
    start: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Lesson:
    """A lesson as a teacher shows it.

    Attributes:
        name: Of the file, without its ending.
        title: With its number.
        subtitle: The line below the title.
        parts: Pictures and exercises, in the order of the page.
        goals: "What you can do now", Markdown.
    """

    name: str
    title: str
    subtitle: str
    parts: tuple[Picture | Exercise, ...]
    goals: str

    @property
    def exercises(self) -> list[Exercise]:
        """The exercises, in their order."""
        return [p for p in self.parts if isinstance(p, Exercise)]


def lesson_files(course: Path) -> list[Path]:
    """Return the notebooks of a course in their order."""
    return sorted(course.glob("[0-9]*.ipynb"))


def _guess(text: str) -> str:
    """Return the last paragraph of Markdown that asks the reader to guess, or ""."""
    paragraphs = re.split(r"\n\s*\n", text)
    found = [m[0] for p in paragraphs if (m := re.search(r"(\*\*Guess:\*\*|\bGuess\b).*", p, re.S))]
    return found[-1].strip() if found else ""


def caption(cells: list[dict[str, Any]], after: int) -> str:
    """Return the caption of a figure: the paragraph in italics that follows its cell, without its stars, or ""."""
    for cell in cells[after + 1 :]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            m = re.match(r"\*(?!\*)(.+?)(?:\n\s*\n|\Z)", text, re.S)
            return "".join(m[1].rsplit("*", 1)).strip() if m else ""
        if not text.startswith("#| hide"):
            return ""
    return ""


def _section(text: str, heading: str) -> str:
    """Return the lines below a heading of the second level, up to the next heading."""
    m = re.search(rf"^## {re.escape(heading)}\s*\n(.*?)(?=^#|\Z)", text, re.S | re.M)
    return m[1].strip() if m else ""


def read_lesson(path: Path) -> Lesson:
    """Read a lesson from its notebook, with the pictures that it keeps.

    Raises:
        ValueError: It is no lesson: it does not begin with a title and a subtitle.
    """
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells]
    head = re.match(r"# (.+)\n+> (.+)", sources[0]) if cells else None
    if not head:
        raise ValueError(f"{path.name} does not begin with a title and a line below it, as a lesson does")
    parts: list[Picture | Exercise] = []
    heading, guess, whole = head[1], "", "\n\n".join(s for c, s in zip(cells, sources) if c["cell_type"] == "markdown")
    for i, (cell, text) in enumerate(zip(cells, sources)):
        if cell["cell_type"] == "markdown":
            guess = _guess(text) or guess
            heading = [heading, *re.findall(r"^##+ (.+)", text, re.M)][-1]
            for name, question in re.findall(r"\*\*(Exercise \d+ \([^)]+\))\.\*\*(.*?)(?=\n<details>|\Z)", text, re.S):
                parts.append(_exercise(name, question.strip(), sources[i:], whole))
            continue
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                parts.append(Picture(heading, guess, b64decode("".join(png)), caption(cells, i)))
        guess = guess if not cell.get("outputs") else ""  # it was answered by the picture, or by a number
    return Lesson(path.stem, head[1], head[2].strip(), tuple(parts), _section(whole, "What you can do now"))


def _exercise(name: str, question: str, after: list[str], whole: str) -> Exercise:
    """Return the exercise of a name, with the code to complete, which follows it, and its answer, anywhere below."""
    number = name.split()[1]
    start = next((s for s in after[1:3] if s.startswith(f"# Exercise {number}: your code here")), "")
    m = re.search(rf"<details>\s*<summary>Answer {number}</summary>(.*?)</details>", whole, re.S)
    return Exercise(name, question, start, m[1].strip() if m else "")
