'What the guide "Many cases, many machines" says: its lines are understood, its arithmetic adds up.'

import json
import re
import shlex
from pathlib import Path

import pytest

from mmccd.cli.app import parse
from mmccd.cli.options import Options

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "nbs" / "guides" / "many_machines.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)).replace("\\\n", " ")
LINES = re.findall(r"^(?:srun |torchrun .*?-m )?mmccd (.+)$", CODE, re.M)


def test_the_page_has_lines():
    assert [line.split()[0] for line in LINES] == ["train", "prepare", "train", "train", "train", "detect", "detect"]


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_understood(line):
    assert isinstance(parse(shlex.split(line)), Options)


def test_the_arithmetic():
    petaflop = 5.45e9 * 2 * 3 * 32 * 100_000 * 2 / 1e15
    assert f"= {petaflop:.0f}\\ \\text{{PFLOP}}" in PAGE
    assert f"6 pairs, {6 * petaflop:,.0f} PFLOP" in PAGE
    hours = [6 * petaflop / 3.6 / speed for speed in (10, 40, 100)]
    assert "| GPU hours | " + " | ".join(f"{h:.1f}" for h in hours) + " |" in PAGE
    assert "| cost at 3 an hour | " + " | ".join(f"{3 * h:.0f}" for h in hours) + " |" in PAGE
    assert " | ".join(f"{h / 8:.1f} h" for h in hours) in PAGE
    assert f"{974 * 20:,} slices" in PAGE
    assert f"at least {int(32 * 100_000 / (974 * 20))} times" in PAGE
    assert f"about {974 * 20 * 128**2 * (2 * 3 + 2) / 1e9:.1f} GB" in PAGE


def test_the_waiting_is_that_of_the_benchmark():
    bench = json.loads((ROOT / "data" / "results" / "bench_loader.json").read_text(encoding="utf-8"))
    waiting = {(row["slices"], row["workers"]): row["waiting"] for row in bench["rows"]}
    assert max(waiting["memory", 0], waiting["folder", 0]) < 0.01
    assert all(0.085 < waiting[where] < 0.105 for where in (("folder", 1), ("folder", 2), ("URL", 2)))
    assert bench["date"] in PAGE
