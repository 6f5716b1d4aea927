"""`mmccd phantom`: phantom subjects as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Options, Seed, count, put_json, show, slice_range
from mmccd.runtime import counted


@dataclass(frozen=True)
class PhantomOptions(Options):
    """What subjects to make, and where."""

    command: ClassVar[str] = "phantom"
    result: ClassVar[frozenset[str]] = frozenset(("seed", "subjects"))
    has_more: ClassVar[bool] = False

    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the subjects; made where missing.")]
    healthy: Annotated[int, count("healthy subjects")] = 0
    glioma: Annotated[int, count("patients with a glioma")] = 0
    ms: Annotated[int, count("patients with multiple sclerosis")] = 0
    infarct: Annotated[int, count("patients with an infarct")] = 0
    artefact: Annotated[int, count("healthy subjects with an artefact of the scanner")] = 0
    seed: Seed = 0
    slices: Annotated[
        str, typer.Option(metavar="FIRST:LAST", help="Only these axial slices of the 155, such as 70:89.")
    ] = ""
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace subjects that are already there.")] = False


@command(PhantomOptions, epilog="Example: mmccd phantom cases --healthy 5 --glioma 5 --seed 1", needs="train")
def phantom(options: PhantomOptions) -> None:
    """Make phantom subjects with known truth, in BraTS layout."""
    kinds = ("healthy", "glioma", "ms", "infarct", "artefact")
    wanted = [(kind, i) for kind in kinds for i in range(getattr(options, kind))]
    if not wanted:
        raise ValueError("nothing to make: ask for at least one subject, such as --glioma 1")
    slices = slice_range(options.slices)
    from mmccd.cases.phantoms import make_subjects

    made = make_subjects(options.out, wanted, options.seed, slices, options.overwrite)
    put_json({"seed": options.seed, "subjects": made}, options.json)
    if options.json != "-":
        show(f"{counted(len(made), 'subject')} in {options.out}")
