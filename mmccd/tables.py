"""Tables for pages and papers: the only place that writes Markdown tables."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Cell = str | tuple[str, str]
"""Text, or our value and the published one."""
TableWriter = Callable[[Sequence[str], Sequence[Sequence[Cell]], str], str]
"""`markdown_table` or `latex_table`: column names, rows and caption in, text out."""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> str:
    """A Markdown table under its caption, without a newline at the end; published values are grey and in brackets.

    Args:
        head: Names of the columns.
        rows: Cells, each text or (ours, published).
        caption: One paragraph above the table; `""` leaves it out.
    """

    def grey(cell: Cell) -> str:
        return cell if isinstance(cell, str) else f'{cell[0]} <span style="color:gray">({cell[1]})</span>'.strip()

    lines = [head, ["---"] * len(head), *([grey(c) for c in row] for row in rows)]
    return f"{caption}\n\n" * bool(caption) + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex_table(head: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> str:
    """The same as a LaTeX table, without a newline at the end; it needs the packages booktabs and xcolor."""

    def plain(text: str) -> str:
        return re.sub(r"([%&_#$])", r"\\\1", text)

    def grey(cell: Cell) -> str:
        if isinstance(cell, str):
            return plain(cell)
        return f"{plain(cell[0])} \\textcolor{{gray}}{{({plain(cell[1])})}}".strip()

    def line(cells: Sequence[Cell]) -> str:
        return " & ".join(map(grey, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            *([rf"\caption{{{plain(caption)}}}"] if caption else []),
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            line(head),
            r"\midrule",
            *map(line, rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


@dataclass(frozen=True)
class Table:
    """A table before it is written: names of the columns, rows of cells, a caption above."""

    head: list[str]
    rows: list[list[Cell]]
    caption: str = ""

    def write(self, writer: TableWriter = markdown_table) -> str:
        """The table as text, by `markdown_table` or `latex_table`."""
        return writer(self.head, self.rows, self.caption)


def align_table(text: str) -> str:
    """Markdown in which all columns of its table are padded to one width, so that it is readable as it is.

    Args:
        text: Markdown with one table somewhere in it; other lines stay as they are.
    """
    lines = text.split("\n")
    cells = {i: [c.strip() for c in line.strip("|").split("|")] for i, line in enumerate(lines) if line.startswith("|")}
    widths = [max(len(c) for c in column) for column in zip(*cells.values())]

    def pad(cell: str, width: int) -> str:
        return "-" * width if set(cell) == {"-"} and len(cell) > 1 else cell.ljust(width)

    return "\n".join(
        "| " + " | ".join(map(pad, cells[i], widths)) + " |" if i in cells else line for i, line in enumerate(lines)
    )
