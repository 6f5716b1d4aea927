"""`mmccd strip`: cases without their skulls, by a program that is made for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from mmccd.cli.app import command, interrupted_as
from mmccd.cli.options import Cases, Options, put_json, show
from mmccd.runtime import counted


@dataclass(frozen=True)
class StripOptions(Options):
    """Which cases, and where they go."""

    command: ClassVar[str] = "strip"
    result: ClassVar[frozenset[str]] = frozenset(("stripped",))
    has_more: ClassVar[bool] = False

    cases: Cases
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the cases without skull; made where missing.")]


@command(StripOptions, epilog="Example: mmccd strip heads --out brains && mmccd detect brains --out results")
def strip(options: StripOptions) -> None:
    """Remove the skull of each case, through HD-BET or deepbet."""
    from mmccd.cases.strip import strip_cases

    with interrupted_as("stopped; finished cases are kept, the same command goes on"):
        folders = strip_cases(options.cases, options.out, progress=True)
    put_json({"stripped": [str(f) for f in folders]}, options.json)
    if options.json != "-":
        show(f"{counted(len(folders), 'case')} without skull in {options.out}")
