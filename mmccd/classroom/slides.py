"""Slides from the figures, guesses and exercises of the lessons: one page for a browser, one PDF."""

import html
import re
import textwrap
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO

from mmccd.classroom.lessons import Exercise, Lesson
from mmccd.classroom.pages import line_to_html, page, plain, to_html
from mmccd.viz import STYLE as LOOK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, HIGH = 13.33, 7.5  # inches of a slide
LETTERS = 86  # on a line of text in the PDF
CODE_LINES = 14  # of an exercise that fit below its question

STYLE = """
:root { color-scheme: light } html { scroll-snap-type: y mandatory } body { margin: 0; background: #fff; color: #222 }
section { box-sizing: border-box; height: 100vh; padding: 4vmin 6vmin 3vmin; scroll-snap-align: start; display: flex;
  flex-direction: column; font: 3.2vmin/1.35 system-ui, sans-serif; border-bottom: 1px solid #ddd; position: relative }
h1 { font-size: 7vmin; margin: auto 0 0 } h1 + p { font-size: 4vmin; margin: 2vmin 0 auto; color: #555 }
h2 { font-size: 4.2vmin; margin: 0 0 2vmin } .text { margin: auto 0; font-size: 4vmin; max-width: 30em }
.text pre { font: .6em/1.4 ui-monospace, monospace; background: #f4f4f4; padding: 1.5vmin; white-space: pre-wrap }
img { flex: 1; min-height: 0; object-fit: contain; max-width: 100% }
.caption { font-size: 2.7vmin; color: #444; margin: 1.5vmin 6vmin 0 0 } .caption p { margin: 0 }
.number { position: absolute; right: 2vmin; bottom: 1.5vmin; font-size: 2vmin; color: #777 } a { color: inherit }
@media print { @page { size: 13.33in 7.5in; margin: 0 } section { height: 7.5in; break-after: page; border: 0 } }
"""

SCRIPT = """
"use strict";
const slides = [...document.querySelectorAll("section")];
const here = () => slides.reduce((a, s, i) =>
  Math.abs(s.getBoundingClientRect().top) < Math.abs(slides[a].getBoundingClientRect().top) ? i : a, 0);
const go = n => slides[Math.max(0, Math.min(slides.length - 1, n))].scrollIntoView();
const STEP = {ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1};
const fit = () => slides.forEach(s => {
  const text = s.querySelector(".text");
  for (let size = 4; text && size > 1; size -= 0.2) {
    text.style.fontSize = size + "vmin";
    if (s.scrollHeight <= s.clientHeight) return;
  }
});
fit();
addEventListener("resize", fit);
addEventListener("keydown", e => {
  if (e.ctrlKey || e.altKey || e.metaKey) return;
  if (e.key in STEP) go(here() + (e.shiftKey && e.key === " " ? -1 : STEP[e.key]));
  else if (e.key === "Home" || e.key === "End") go(e.key === "Home" ? 0 : slides.length - 1);
  else return;
  e.preventDefault();
});
"""


@dataclass(frozen=True)
class Slide:
    """One slide: a title over a text, or over a picture with its caption; all text is Markdown.

    Attributes:
        title: Of the lesson for its first slide, else of the section.
        text: What stands alone on the slide; "" with a picture.
        code: Python below the text.
        png: The picture, or b"".
        caption: Below the picture.
        first: Is it the first of its lesson?
    """

    title: str
    text: str = ""
    code: str = ""
    png: bytes = b""
    caption: str = ""
    first: bool = False


def lesson_slides(lesson: Lesson) -> list[Slide]:
    """Return the slides of a lesson: what to guess, then the picture that answers; exercises; what can be done now."""
    slides = [Slide(lesson.title, lesson.subtitle, first=True)]
    for part in lesson.parts:
        if isinstance(part, Exercise):
            code = part.start if part.start.count("\n") < CODE_LINES else ""
            slides.append(Slide(part.name, part.question, code))
        else:
            slides += [Slide(part.heading, part.guess)] * bool(part.guess)
            slides.append(Slide(part.heading, png=part.png, caption=part.caption))
    return slides + [Slide("What you can do now", lesson.goals)] * bool(lesson.goals)


def _section(slide: Slide, number: int) -> str:
    """Return a slide as HTML."""
    end = f'<div class="number">{number}</div></section>'
    if slide.first:
        return f"<section><h1>{html.escape(slide.title)}</h1><p>{html.escape(slide.text)}</p>{end}"
    head = f"<section><h2>{line_to_html(slide.title)}</h2>"
    if not slide.png:
        code = f"<pre>{html.escape(slide.code)}</pre>" if slide.code else ""
        return f'{head}<div class="text">{_without_links(to_html(slide.text))}{code}</div>{end}'
    picture = f'<img alt="{html.escape(plain(slide.caption), quote=True)}" src="data:image/png;base64,'
    caption = f'<div class="caption">{_without_links(to_html(slide.caption))}</div>'
    return f'{head}{picture}{b64encode(slide.png).decode()}">{caption}{end}'


def _without_links(text: str) -> str:
    """Return HTML with the text of its links only: a click on a slide leads nowhere."""
    return re.sub(r"</?a\b[^>]*>", "", text)


def html_slides(lessons: Iterable[Lesson], title: str) -> str:
    """Return the slides of lessons as one page; arrow keys turn it."""
    slides = [s for lesson in lessons for s in lesson_slides(lesson)]
    return page(title, "\n".join(_section(s, n) for n, s in enumerate(slides, 1)), STYLE, SCRIPT)


def _wrapped(text: str, letters: int) -> str:
    """Return plain text in lines of about so many letters; a formula stays whole, where matplotlib can draw it."""
    from matplotlib.mathtext import MathTextParser

    def whole(m: re.Match[str]) -> str:
        try:
            MathTextParser("agg").parse(m[0])
        except ValueError:
            return m[0].replace("$", "")
        return m[0].replace(" ", "\0")

    held = re.sub(r"\$[^$\n]+\$", whole, text.replace("$$", "$"))
    lines = [
        textwrap.wrap(line, letters, subsequent_indent="   " if line.startswith("•") else "") or [""]
        for line in held.split("\n")
    ]
    return "\n".join(line for group in lines for line in group).replace("\0", " ")


def _write(sheet: "Figure", slide: Slide) -> None:
    """Write text and code of a slide in the middle of its height, in letters that leave both enough room."""
    code = slide.code.split("\n") if slide.code else []
    for size in (26, 22, 18, 15):
        lines = _wrapped(plain(slide.text), int(LETTERS * 18 / size)).split("\n")
        height = (len(lines) * size * 1.6 + len(code) * size) / 72 / HIGH
        if height < 0.72:
            break
    top = 0.46 + height / 2
    sheet.text(0.07, top, "\n".join(lines), fontsize=size, va="top", linespacing=1.35)
    low = top - len(lines) * size * 1.6 / 72 / HIGH
    small = min(size * 0.75, 1350 / max(map(len, code), default=1))  # the longest line fits
    sheet.text(0.07, low - 0.02, "\n".join(code), fontsize=small, va="top", family="monospace", parse_math=False)


def _drawn(slide: Slide, number: int) -> "Figure":
    """Return a slide as a figure."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    sheet = Figure(figsize=(WIDE, HIGH), dpi=100, facecolor="white")
    sheet.text(0.975, 0.025, str(number), ha="right", fontsize=11, color="#777777")
    if slide.first:
        sheet.text(0.06, 0.56, _wrapped(plain(slide.title), 42), fontsize=36, fontweight="bold", va="bottom")
        sheet.text(0.06, 0.5, _wrapped(plain(slide.text), 70), fontsize=24, color="#555555", va="top")
        return sheet
    sheet.text(0.05, 0.93, _wrapped(plain(slide.title), 70), fontsize=26, fontweight="bold", va="center")
    if not slide.png:
        _write(sheet, slide)
        return sheet
    caption = _wrapped(plain(slide.caption), LETTERS + 20)
    low = 0.05 + 0.036 * (caption.count("\n") + 1)
    ax = sheet.add_axes((0.04, low + 0.02, 0.92, 0.85 - low))
    ax.imshow(imread(BytesIO(slide.png)), interpolation="antialiased")
    ax.set_axis_off()
    sheet.text(0.05, low, caption, fontsize=15, va="top", color="#444444", linespacing=1.25)
    return sheet


def pdf_slides(lessons: Iterable[Lesson], title: str, file: BinaryIO) -> int:
    """Write the slides of lessons into a file as PDF; returns how many there are."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    slides = [s for lesson in lessons for s in lesson_slides(lesson)]
    info = {"Title": title, "Creator": "mmccd", "CreationDate": None}
    with rc_context({"font.size": LOOK["font.size"], "pdf.fonttype": 42}), PdfPages(file, metadata=info) as pdf:
        for number, slide in enumerate(slides, 1):
            pdf.savefig(_drawn(slide, number))
    return len(slides)
