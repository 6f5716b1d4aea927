"""`mmccd prepare`: a store of slices for training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from mmccd.cli.app import command, interrupted_as
from mmccd.cli.options import Options, Scheduler, Seed, Subjects, count, parse_list, put_json, show, slice_range
from mmccd.runtime import counted, say


@dataclass(frozen=True)
class PrepareOptions(Options):
    """What to read or make, and what of it the store shall hold."""

    command: ClassVar[str] = "prepare"
    result: ClassVar[frozenset[str]] = frozenset(("store", "kept", "failed"))

    raw: Annotated[
        str,
        typer.Argument(
            metavar="RAW",
            help="Folder with cases below it, such as BraTS2021 (ID/ID_flair.nii.gz and so on); "
            "or the word phantom, to make phantoms.",
        ),
    ]
    store: Annotated[
        str,
        typer.Argument(
            metavar="STORE",
            help="Folder of the store, made where missing; or an fsspec URL such as s3://bucket/slices.zarr.",
        ),
    ]
    size: Annotated[int, typer.Option(min=8, help="Pixels along each side of a slice.")] = 64
    fov: Annotated[
        float,
        typer.Option(min=20, max=1000, metavar="MM", help="Field of view, millimetres along each side of a slice."),
    ] = 240.0
    slices: Annotated[
        str,
        typer.Option(
            metavar="FIRST:LAST|all",
            help="Axial slices: places on the BraTS grid, plain indices on any other. All that hold enough brain are "
            "what detect sees; the paper tests on 70:89.",
        ),
    ] = "all"
    modalities: Annotated[
        str, typer.Option(metavar="flair,t2", help="Which, with commas.  [default: those of the first case]")
    ] = ""
    tumour_free: Annotated[
        bool,
        typer.Option(
            "--tumour-free",
            help="Keep only slices without lesion. Not needed for training, which leaves the others out.",
        ),
    ] = False
    assume_healthy: Annotated[
        bool, typer.Option("--assume-healthy", help="Cases without a segmentation are known to be healthy.")
    ] = False
    min_brain: Annotated[float, typer.Option(min=0, help="Square centimetres of brain that a slice needs.")] = 5.0
    normalisation: Annotated[
        str,
        typer.Option(
            metavar="METHOD", help="How brightness is scaled, as in chapter 02b.  [default: what detect uses]"
        ),
    ] = ""
    healthy: Annotated[int, count("healthy phantoms")] = 0
    glioma: Annotated[int, count("phantoms with a glioma")] = 0
    ms: Annotated[int, count("phantoms with multiple sclerosis")] = 0
    infarct: Annotated[int, count("phantoms with an infarct")] = 0
    seed: Seed = 0
    whole: Annotated[
        bool,
        typer.Option(
            "--whole-heads",
            help="Make whole phantom heads, and measure brightness over them as in real scans: ten times slower.",
        ),
    ] = False
    every: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Of each whole phantom head make every Nth axial place only, beginning at another place from head to "
            "head (index modulo N); brightness is measured over these. Many heads for little time.",
        ),
    ] = 1
    varied: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="What differs between phantom heads by more than usual, so that networks work on scanners they never "
            "saw: anatomy, contrast, image, or several of them.",
        ),
    ] = ""
    subjects: Subjects = None
    jobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes, a case each; 0 is one for each core where there are many cases. The result is the same. "
            "More than 1 need pip install 'mmccd[cluster]', and without it 0 is 1.",
        ),
    ] = 0
    scheduler: Scheduler = ""


def source(options: PrepareOptions) -> Any:
    """Return the place of the cases as it was given, or `Phantoms` where phantoms are wanted.

    Raises:
        ValueError: if phantoms are wanted of a place that is not the word phantom.
    """
    counts = {k: getattr(options, k) for k in ("healthy", "glioma", "ms", "infarct")}
    made = any(counts.values()) or options.whole or options.every > 1 or bool(options.varied)
    if options.raw != "phantom" and made:
        raise ValueError(
            f"{options.raw} is not the word phantom, but phantoms are asked for: put phantom in its place, "
            "or leave their options out"
        )
    if options.raw != "phantom" or (Path(options.raw).exists() and not made):
        return options.raw
    from mmccd.cases.phantoms import Phantoms

    varied = parse_list(options.varied)
    return Phantoms(**counts, seed=options.seed, whole=options.whole, every=options.every, varied=varied)


def print_store(result: dict[str, Any], json: str = "") -> int:
    """Print what is in the store now, and what went wrong on standard error.

    Args:
        result: from `mmccd.cases.prepare.prepare`.
        json: where it goes as JSON; "-" leaves standard output to that.

    Returns:
        The exit code: 2 if a case failed.
    """
    put_json(result, json)
    for sentence in (*result["notes"], *(f["error"] for f in result["failed"])):
        say(sentence)
    done = {"new": result["new"], "kept": result["kept"], "failed": len(result["failed"])}
    kinds = {"ill": "with lesion", "unknown": "without a segmentation, of no use for training"}
    with_lesion = ", ".join(f"{result[k]} {words}" for k, words in kinds.items() if result[k])
    if json != "-":
        show(
            f"{counted(result['cases'], 'case')} with {counted(result['slices'], 'slice')}"
            + f" ({with_lesion})" * bool(with_lesion)
            + f", {result['bytes'] / 1e6:.1f} MB, in {result['store']} "
            + f"({', '.join(f'{n} {k}' for k, n in done.items() if n)})"
        )
    return 2 if result["failed"] else 0


@command(
    PrepareOptions,
    epilog="Example: mmccd prepare BraTS2021 slices.zarr --slices 30:125 --size 128. "
    "Phantoms: mmccd prepare phantom slices.zarr --healthy 400 --every 8 --slices 30:125 --seed 1",
    needs="train",
)
def prepare(options: PrepareOptions) -> int:
    """Write a store of slices for training: each case is read once. The same command goes on where it was stopped."""
    from mmccd.cases.prepare import prepare as make_store
    from mmccd.intensity import DEFAULT

    with interrupted_as("stopped; finished cases are kept, the same command goes on"):
        result = make_store(
            source(options),
            options.store,
            size=options.size,
            fov=options.fov,
            slices=slice_range(options.slices, 1000),
            modalities=parse_list(options.modalities) or None,
            tumour_free=options.tumour_free,
            min_brain=options.min_brain,
            healthy=options.assume_healthy,
            normalisation=options.normalisation or DEFAULT,
            jobs=options.jobs,
            scheduler=options.scheduler,
            subjects=options.subjects,
        )
    return print_store(result, options.json)
