""""""

import re


def markdown(
    caption: str,  # above the table
    head: list,  # names of the columns
    rows: list,  # of cells: text, or (ours, published)
) -> str:
    "A table for a page; what is published is grey and in brackets."

    def grey(c):
        return c if isinstance(c, str) else f'{c[0]} <span style="color:gray">({c[1]})</span>'.strip()

    lines = [head, ["---"] * len(head), *([grey(c) for c in row] for row in rows)]
    return caption + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(
    caption: str,  # above the table
    head: list,  # names of the columns
    rows: list,  # of cells: text, or (ours, published)
) -> str:
    "The same for a paper; needs the packages booktabs and xcolor."

    def plain(t):
        return re.sub(r"([%&_#$])", r"\\\1", t)

    def grey(c):
        return plain(c) if isinstance(c, str) else f"{plain(c[0])} \\textcolor{{gray}}{{({plain(c[1])})}}".strip()

    lines = [" & ".join(map(plain, head)) + r" \\", r"\midrule", *(" & ".join(map(grey, row)) + r" \\" for row in rows)]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{plain(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def align_table(
    table: str,  # Markdown, with a table somewhere in it
) -> str:  # the same with columns of equal width
    "Make a Markdown table readable as it is."
    lines = table.split("\n")
    cells = {i: [c.strip() for c in line.strip("|").split("|")] for i, line in enumerate(lines) if line.startswith("|")}
    widths = [max(len(c) for c in column) for column in zip(*cells.values())]

    def pad(c, w):
        return "-" * w if set(c) == {"-"} and len(c) > 1 else c.ljust(w)

    return "\n".join(
        "| " + " | ".join(map(pad, cells[i], widths)) + " |" if i in cells else line for i, line in enumerate(lines)
    )
