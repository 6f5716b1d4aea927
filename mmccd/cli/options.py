"""What the commands share: the base of their options, options that several have, and results as JSON."""

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from mmccd.errors import display_name

Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness: same seed, same result.")]

Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where networks run.")]

Json = Annotated[
    str,
    typer.Option(
        "--json", metavar="[FILE]", help="Write the result as JSON; without a file, or with -, to standard output."
    ),
]

Cases = Annotated[
    list[Path], typer.Argument(metavar="CASE...", help="Folders of cases, folders with cases in them, or NIfTI files.")
]

Subjects = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Who is who, where names do not tell: a case and its person a line, as CSV, TSV or two words. "
        "No person is parted.",
        show_default=False,
    ),
]

Scheduler = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Let the workers of a Dask scheduler do it, on this or other computers: its address, such as "
        "tcp://host:8786, or its scheduler file. All of them have to see the same folders, and have one thread each: "
        "dask worker ADDRESS --nthreads 1. Needs pip install 'mmccd[cluster]'.",
        show_default=False,
    ),
]

Input = Annotated[
    str,
    typer.Option(
        metavar="flair|t1|t1ce|t2",
        help="Modality of the detector.  [default: the detector's own; that of the files, where all CASEs are "
        "single files of one modality; or flair]",
    ),
]


OWN_FILES = re.compile(r"^(.*_)?detect\.json$|^(train|config|zarr)\.json$")  # JSON that commands keep for themselves


@dataclass(frozen=True)
class Options:
    """Options of a command: a subclass names the command, and each of its fields is an argument or an option.

    A field is declared as typer wants a parameter, `out: Annotated[Path, typer.Option(help=...)] = Path("out")`; one
    without a default must be given. `json`, which every command has, comes last.
    """

    command: ClassVar[str]
    result: ClassVar[frozenset[str]]  # fields by which this command's JSON is told from other files
    has_more: ClassVar[bool] = True  # has its JSON other fields, too?

    json: Json = field(default="", kw_only=True)  # a file, "-" for standard output, "" for none


def show(text: str) -> None:
    """Print lines for the user on standard output; what a terminal would obey is shown instead."""
    print(*map(display_name, text.split("\n")), sep="\n")


def count(what: str) -> Any:
    """Return the option of a command that counts subjects, of the kind `what`."""
    return typer.Option(min=0, metavar="N", help=f"How many {what}.")


def setting(help: str, metavar: str) -> Any:
    """Return an option of `mmccd train` that the preset decides where it is not given.

    Args:
        help: what it sets, one sentence.
        metavar: what its value looks like, in the help.
    """
    return typer.Option(help=f"{help}  [default: the preset's]", metavar=metavar, show_default=False)


def check_json(options: Options) -> None:
    """Refuse a place for JSON that cannot be written or must not be, before the work and not after it.

    Args:
        options: of a command; their `json` is a file, "-" for standard output, or "" for none.

    Raises:
        ValueError: if it is a file whose name does not end in .json, whose folder does not exist, or which holds
            anything but an earlier result of the same command. `--json` takes the next word for its file, and without
            the first rule that could be a scan.
    """
    to = options.json
    if to not in ("", "-") and (Path(to).suffix != ".json" or not Path(to).parent.is_dir() or Path(to).is_dir()):
        raise ValueError(
            f"Cannot write {to}: after --json, name a file that ends in .json, in a folder that exists, "
            "or put --json last."
        )
    if to not in ("", "-") and (OWN_FILES.search(Path(to).name) or not is_result(Path(to), options)):
        raise ValueError(
            f"Cannot write {display_name(to)}: after --json, name a new file, or an earlier result of "
            f"mmccd {options.command}; this one holds something else."
        )


def is_result(path: Path, options: Options) -> bool:
    """Return whether a file may be replaced: it is not there, holds nothing, or an earlier result of this command."""
    from mmccd.schemas import read_checked

    if not os.path.lexists(path) or (path.is_file() and not path.stat().st_size):
        return True
    try:
        found = read_checked(path, dict[str, Any])
    except ValueError:
        return False
    return not found or found.keys() == options.result or (options.has_more and found.keys() > options.result)


def put_json(result: dict[str, Any], to: str) -> None:
    """Write `result` as JSON, the whole of it or nothing.

    Args:
        result: made of what JSON knows; undefined numbers are None.
        to: a file, "-" for standard output, or "" for none.

    Raises:
        ValueError: if a number is not finite, or the file cannot be written.
    """
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    if to == "-":
        sys.stdout.write(text)
    elif to:
        from mmccd.files import write_atomic, writing

        with writing(Path(to).parent):
            write_atomic(to, text.encode())


def slice_range(text: str, n: int = 155) -> range | None:
    """Return the axial slices that `text` names, or None for all.

    Args:
        text: first and last slice, such as 70:89; "" or "all" for all.
        n: number of slices of the grid, 155 for that of BraTS.

    Raises:
        ValueError: if `text` is anything else, or the range does not lie in the grid.
    """
    if text in ("", "all"):
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < n):
        raise ValueError(f"slices must be FIRST:LAST with 0 <= FIRST <= LAST <= {n - 1}, got {text!r}")
    return range(int(first), int(last) + 1)


def parse_list(text: str) -> list[str]:
    """Return the names in a list with commas, in lower case: `"FLAIR, t2"` gives `["flair", "t2"]`."""
    return [m for m in text.lower().replace(" ", "").split(",") if m]
