'The page "Reproduce the paper on BraTS2021": its commands and tables.'

import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "nbs/guides/reproduce_brats2021.md").read_text()
INSTALL = ("git clone ", "python3 -m venv ", ". ", "pip install ", "python -c ")


def lines():
    "The commands of the page, a line each, without those that install."
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.replace("\\\n   ", ""), re.S)
    return [line for block in blocks for line in block.splitlines() if not line.startswith(INSTALL)]


def table_commands():
    "The commands that make tables, by folder."
    return {re.search(r"--out (\S+)", line)[1]: line for line in lines() if "--preset gpu" in line and "--out" in line}


def table_below(heading):
    "The first table below a heading, without its two top lines: cells by the first column."
    table = re.search(rf"^## {heading}$.*?^((?:\|[^\n]*\n)+)", PAGE, re.M | re.S)[1]
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {first: cells for first, *cells in rows}
