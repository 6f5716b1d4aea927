""""""

from pathlib import Path
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Json, Seed, check_json, count, parse_list, put_json, slice_range
from mmccd.runtime import say


def make_store(
    raw: str,  # folder or file, or "phantom"
    store: str,  # where to
    slices: str,  # first and last, "70:89"; or "all"
    modalities: str,  # with commas; "" is all
    phantoms: dict,  # counts by kind, seed, whole
    jobs: int = 0,  # processes; 0 chooses
    **options,  # of `prepare`
) -> dict:  # what `prepare` returns
    "Words into a call."
    from mmccd.cases.phantoms import Phantoms
    from mmccd.cases.prepare import prepare
    from mmccd.intensity import DEFAULT

    made = any(n for k, n in phantoms.items() if k != "seed")
    is_phantom = raw == "phantom" and (made or not Path(raw).exists())
    if made and not is_phantom:
        raise ValueError(
            f"{raw} is not the word phantom, but phantoms are asked for: put phantom in its place, or leave their options out"
        )
    wanted = parse_list(modalities) or None
    options["normalisation"] = options["normalisation"] or DEFAULT
    return prepare(
        Phantoms(**phantoms) if is_phantom else raw,
        store,
        slices=slice_range(slices, 1000),
        modalities=wanted,
        jobs=jobs,
        **options,
    )


def print_store(
    result: dict,  # from `prepare`
    json: str = "",  # file, or - for standard output
) -> int:  # exit code: 2 if a case failed
    "What is in the store now; errors on standard error."
    from mmccd.runtime import counted

    put_json(result, json)
    for f in result["failed"]:
        say(f["error"])
    was = [
        f"{n} {what}"
        for n, what in ((result["new"], "new"), (result["kept"], "kept"), (len(result["failed"]), "failed"))
        if n
    ]
    ill = ", ".join(
        f"{result[k]} {words}"
        for k, words in (("ill", "with lesion"), ("unknown", "without a segmentation, of no use for training"))
        if result[k]
    )
    if json != "-":
        print(
            f"{counted(result['cases'], 'case')} with {counted(result['slices'], 'slice')}{f' ({ill})' * bool(ill)}, {result['bytes'] / 1e6:.1f} MB, in {result['store']} ({', '.join(was)})"
        )
    return 2 if result["failed"] else 0


@app.command(
    epilog="Example: mmccd prepare BraTS2021 slices.zarr --slices 30:125 --size 128. Phantoms: mmccd prepare phantom slices.zarr --healthy 40 --glioma 10 --seed 1"
)
def prepare(
    raw: Annotated[
        str,
        typer.Argument(
            metavar="RAW",
            help="Folder with cases below it, such as BraTS2021 (ID/ID_flair.nii.gz and so on); or the word phantom, to make phantoms.",
        ),
    ],
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE",
            help="Folder of the store, made where missing; or an fsspec URL such as s3://bucket/slices.zarr.",
        ),
    ],
    size: Annotated[int, typer.Option(min=8, help="Pixels along each side of a slice.")] = 64,
    slices: Annotated[
        str,
        typer.Option(
            metavar="FIRST:LAST|all", help="Axial slices: places on the BraTS grid, plain indices on any other."
        ),
    ] = "70:89",
    modalities: Annotated[
        str, typer.Option(metavar="flair,t2", help="Which, with commas.  [default: those of the first case]")
    ] = "",
    tumour_free: Annotated[
        bool,
        typer.Option(
            "--tumour-free",
            help="Keep only slices without lesion. Not needed for training, which leaves the others out.",
        ),
    ] = False,
    assume_healthy: Annotated[
        bool, typer.Option("--assume-healthy", help="Cases without a segmentation are known to be healthy.")
    ] = False,
    min_brain: Annotated[float, typer.Option(min=0, help="Square centimetres of brain that a slice needs.")] = 5.0,
    normalisation: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help="How brightness is scaled, as in chapter 02b.  [default: what detect uses]"
        ),
    ] = "",
    healthy: count("healthy phantoms") = 0,  # 0 or more
    glioma: count("phantoms with a glioma") = 0,  # 0 or more
    ms: count("phantoms with multiple sclerosis") = 0,  # 0 or more
    infarct: count("phantoms with an infarct") = 0,  # 0 or more
    seed: Seed = 0,  # of the phantoms
    whole: Annotated[
        bool,
        typer.Option(
            "--whole-heads",
            help="Make whole phantom heads, and measure brightness over them as in real scans: ten times slower.",
        ),
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes, a case each; 0 is one for each core where there are many cases. The result is the same.",
        ),
    ] = 0,
    json: Json = "",  # file, or - for standard output
):
    "Write a store of slices for training: each case is read once. The same command goes on where it was stopped."
    check_json(json)
    phantoms = dict(healthy=healthy, glioma=glioma, ms=ms, infarct=infarct, seed=seed, whole=whole)
    return print_store(
        make_store(
            raw,
            store,
            slices,
            modalities,
            phantoms,
            jobs,
            size=size,
            tumour_free=tumour_free,
            min_brain=min_brain,
            healthy=assume_healthy,
            normalisation=normalisation,
        ),
        json,
    )
