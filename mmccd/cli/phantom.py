""""""

from pathlib import Path
from typing import Annotated

import typer

from mmccd.cases.phantoms import make_subjects
from mmccd.cli.app import app
from mmccd.cli.options import Json, Seed, check_json, count, put_json, slice_range


@app.command(epilog="Example: mmccd phantom cases --healthy 5 --glioma 5 --seed 1")
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the subjects; made where missing.")],
    healthy: count("healthy subjects") = 0,  # 0 or more
    glioma: count("patients with a glioma") = 0,  # 0 or more
    ms: count("patients with multiple sclerosis") = 0,  # 0 or more
    infarct: count("patients with an infarct") = 0,  # 0 or more
    artefact: count("healthy subjects with an artefact of the scanner") = 0,  # 0 or more
    seed: Seed = 0,  # of all randomness
    slices: Annotated[
        str, typer.Option(metavar="FIRST:LAST", help="Only these axial slices of the 155, such as 70:89.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace subjects that are already there.")] = False,
    json: Json = "",  # file, or - for standard output
):
    "Make phantom subjects with known truth, in BraTS layout."
    check_json(json)
    counts = dict(healthy=healthy, glioma=glioma, ms=ms, infarct=infarct, artefact=artefact)
    wanted = [(kind, i) for kind, n in counts.items() for i in range(n)]
    if not wanted:
        raise ValueError("nothing to make: ask for at least one subject, such as --glioma 1")
    made = make_subjects(out, wanted, seed, slice_range(slices), overwrite)
    put_json({"seed": seed, "subjects": made}, json)
    if json != "-":
        print(f"{len(made)} subject{'s' * (len(made) > 1)} in {out}")
