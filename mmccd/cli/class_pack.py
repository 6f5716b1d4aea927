"""`mmccd class-pack`: notebooks, pages, slides, sheets and wheels for a class without a network."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Options, put_json, show


@dataclass(frozen=True)
class ClassPackOptions(Options):
    """Where the pack goes, and how its wheels are found."""

    command: ClassVar[str] = "class-pack"
    result: ClassVar[frozenset[str]] = frozenset(("pack", "megabytes"))
    has_more: ClassVar[bool] = False

    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the pack.")]
    no_wheels: Annotated[
        bool, typer.Option("--no-wheels", help="Without what must be installed: seconds, and no network.")
    ] = False
    pip: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Further options for pip, in quotes, such as an index of PyTorch without CUDA."
        ),
    ] = ""


@command(
    ClassPackOptions,
    epilog="Example: mmccd class-pack pack --no-wheels, then open pack/START.html in a browser.",
    needs="notebooks",
)
def class_pack(options: ClassPackOptions) -> None:
    """Make one folder for a class without a network."""
    from mmccd.classroom.pack import write_pack
    from mmccd.runtime import say

    pack = write_pack(options.out, not options.no_wheels, shlex.split(options.pip, posix=os.name == "posix"), say)
    megabytes = round(sum(p.stat().st_size for p in pack.rglob("*") if p.is_file()) / 1e6, 1)
    put_json({"pack": str(pack), "megabytes": megabytes}, options.json)
    if options.json != "-":
        show(f"{pack}, {megabytes} MB: open START.html in a browser")
