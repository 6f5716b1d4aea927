""""""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

Seed = Annotated[int, typer.Option(min=0, help="Seed of all randomness: same seed, same result.")]


Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda|mps", help="Where networks run.")]


Json = Annotated[
    str,
    typer.Option(
        "--json", metavar="[FILE]", help="Write the result as JSON; without a file, or with -, to standard output."
    ),
]


Input = Annotated[
    str,
    typer.Option(
        metavar="flair|t1|t1ce|t2",
        help="Modality to look at.  [default: the detector's own; that of the files, where all CASEs are single files of one modality; or flair]",
    ),
]


def count(
    what: str,  # of which kind
):  # type of an option
    "An option that counts subjects."
    return Annotated[int, typer.Option(min=0, metavar="N", help=f"How many {what}.")]


def check_json(
    to: str,  # file; "-" is standard output, "" nothing
):
    "Refuse a file that cannot be written, before the work and not after it."
    if to not in ("", "-") and (Path(to).suffix != ".json" or not Path(to).parent.is_dir() or Path(to).is_dir()):
        raise ValueError(
            f"Cannot write {to}: after --json, name a file that ends in .json, in a folder that exists, or put --json last."
        )


def put_json(
    result: dict,  # what to write
    to: str,  # file; "-" is standard output, "" nothing
):
    "Write a result as JSON, whole or not at all."
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    if to == "-":
        sys.stdout.write(text)
    elif to:
        from mmccd.files import write_atomic, writing

        with writing(Path(to).parent):
            write_atomic(to, text.encode())


def slice_range(
    text: str,  # first and last slice, "70:89"; "" or "all" is all
    n: int = 155,  # slices of the grid, those of BraTS unless it may be another
) -> range | None:  # None for all
    "Which axial slices?"
    if text in ("", "all"):
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < n):
        raise ValueError(f"slices must be FIRST:LAST with 0 <= FIRST <= LAST <= {n - 1}, got {text!r}")
    return range(int(first), int(last) + 1)


def parse_list(
    text: str,  # names with commas, any case
) -> list[str]:  # in lower case
    "The names in a list."
    return [m for m in text.lower().replace(" ", "").split(",") if m]


def Setting(
    kind: type,  # int, float or str
    help: str,  # one sentence
    metavar: str,  # its form
):  # type of an option
    "An option of `train` that the preset answers where it is not given."
    return Annotated[
        kind | None, typer.Option(help=f"{help}  [default: the preset's]", metavar=metavar, show_default=False)
    ]
