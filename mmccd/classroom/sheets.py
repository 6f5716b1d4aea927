"""Sheets to print: the exercises of each lesson with room to write, their answers, and the quiz with and without."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from mmccd.classroom.lessons import Exercise, Lesson
from mmccd.classroom.pages import page, to_html

NAME = "<p>Name: ______________________________ &emsp; Date: ________________</p>"


def _exercise(exercise: Exercise, answered: bool) -> str:
    """Return an exercise as HTML: with room to write, or with its answer."""
    body = f"<h3>{html.escape(exercise.name)}</h3>{to_html(exercise.question)}"
    if exercise.start:
        body += f"<pre>{html.escape(exercise.start)}</pre>"
    if not answered:
        return body + '<div class="write"></div>'
    return body + (to_html(exercise.answer) or "<p>No single answer is right: see the teacher's notes.</p>")


def exercise_sheets(lessons: Sequence[Lesson], answered: bool = False) -> str:
    """Return the exercises of all lessons as one page, a lesson a sheet when it is printed.

    Args:
        lessons: Of the course.
        answered: With the answers, for the teacher, or with room to write.
    """
    sheets = [
        f'<section class="sheet"><h2>{html.escape(lesson.title)}</h2>{"" if answered else NAME}'
        + "".join(_exercise(e, answered) for e in lesson.exercises)
        + "</section>"
        for lesson in lessons
    ]
    title = "Exercises with answers" if answered else "Exercises"
    return page(title, f"<h1>{title}</h1>" + "\n".join(sheets))


def quiz_sheet(path: Path, answered: bool = False) -> str:
    """Return the quiz as a page, with all answers open or without any.

    Args:
        path: Markdown in which each answer is a folded `<details>`.
        answered: For the teacher.
    """
    text = path.read_text(encoding="utf-8")
    folded = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.S)
    text = folded.sub(r"**\1.** \2" if answered else "", text)
    title = "Quiz with answers" if answered else "Quiz"
    text = re.sub(r"^# .*", f"# {title}", text, count=1, flags=re.M)
    return page(title, ("" if answered else NAME) + to_html(text))
