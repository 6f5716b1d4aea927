"""`mmccd detect`: map, segmentation and report of each case."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mmccd.cli.app import command, command_line, interrupted_as
from mmccd.cli.options import Cases, Device, Input, Options, Scheduler, Seed, put_json, show
from mmccd.files import user_path
from mmccd.registry import packaged_methods, packaged_name
from mmccd.runtime import counted, pick_device, say

if TYPE_CHECKING:
    from mmccd.detector import Detector


@dataclass(frozen=True)
class DetectOptions(Options):
    """Which cases, with which detector, and what is done to its maps."""

    command: ClassVar[str] = "detect"
    result: ClassVar[frozenset[str]] = frozenset(("fingerprint", "cases"))

    cases: Cases
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder for the results, made where missing; or an fsspec URL such as s3://bucket/results.",
        ),
    ]
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help=f"NAME of a detector that comes with mmccd: {', '.join(packaged_methods())} (that of the input), "
            "or in full, such as cycle-t1-t2; or RUN, a folder with config.json, or hf:owner/name on the Hugging "
            "Face hub.  [default: ensemble, the best for the modalities that a case has]",
        ),
    ] = ""
    input: Input = ""
    device: Device = "auto"
    seed: Seed = 0
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Leave complete results alone that were made of the same files by the same detector.",
        ),
    ] = False
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the results of another detector, threshold, input, seed or post-processing that are in DIR, "
            "all of them, and those of another scan that has the name of a CASE.",
        ),
    ] = False
    strip: Annotated[
        bool,
        typer.Option(
            "--strip",
            help="Remove the skulls first, as mmccd strip does, into a folder beside DIR that ends in -stripped.",
        ),
    ] = False
    viewer: Annotated[
        bool,
        typer.Option(
            "--viewer", help="Also write a notebook into DIR, viewer.ipynb, that shows the results in NiiVue (3-D)."
        ),
    ] = False
    median: Annotated[
        int,
        typer.Option(metavar="N", help="Post-processing: median of the map over N x N x N voxels, N odd; 0 is none."),
    ] = 0
    erode: Annotated[
        float,
        typer.Option(metavar="MM", help="Post-processing: the outermost MM of the brain are left out of the map."),
    ] = 0.0
    smallest: Annotated[float, typer.Option(metavar="ML", help="Post-processing: smaller pieces are dropped.")] = 0.0
    healthy: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CASE",
            help="Healthy case, or a folder of them, to calibrate the threshold on, with the same post-processing; "
            "may be given several times.  [default: the detector's own threshold]",
            show_default=False,
        ),
    ] = None
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes, a case each, each with one thread; one that is killed is replaced. More than 1 need pip "
            "install 'mmccd[cluster]'.",
        ),
    ] = 1
    scheduler: Scheduler = ""


def command_for_record(options: DetectOptions) -> str:
    """Return the command line without what has no influence on a case's result: the same result, the same record."""
    same: dict[str, Any] = dict(skip_existing=False, overwrite=False, viewer=False, json="", jobs=1, scheduler="")
    return command_line(replace(options, out="OUT", **same))


def check_beside(options: DetectOptions) -> None:
    """Refuse what is written beside the results where they lie in a bucket."""
    from mmccd.cases.records import is_url

    for name, wanted, instead in (
        ("--strip", options.strip, "run mmccd strip first"),
        ("--viewer", options.viewer, "leave it out"),
    ):
        if wanted and is_url(options.out):
            raise ValueError(f"{name} writes into a folder, and {options.out} is none: choose a folder, or {instead}")


def strip_first(options: DetectOptions) -> DetectOptions:
    """Return the options with cases, healthy ones too, whose skulls are removed, where that is asked for."""
    if not options.strip:
        return options
    from mmccd.cases.strip import strip_cases

    out = Path(os.path.abspath(user_path(options.out)))  # "." has no name
    beside = out.with_name(out.name + "-stripped")
    how: dict[str, Any] = {"modality": options.input.lower(), "progress": True, "scheduler": options.scheduler}
    cases = strip_cases(options.cases, beside, **how)
    healthy = strip_cases(options.healthy, beside, **how) if options.healthy else None
    return replace(options, cases=cases, healthy=healthy)


def infer_modality(paths: Sequence[str | Path]) -> str:
    """Return the modality that the names of all `paths` agree on; "" where they differ, are folders, or do not say."""
    from mmccd.anatomy import MODALITIES
    from mmccd.cases.names import split_name

    names = {split_name(p)[1] if Path(p).is_file() else None for p in paths}
    return names.pop() or "" if len(names) == 1 and names <= set(MODALITIES) else ""


def pick_detector(weights: str = "", input: str = "", paths: Sequence[str | Path] = ()) -> tuple["Detector", str]:
    """Return a detector and its full name.

    Args:
        weights: a folder, a packaged name, a hub id, or a short name; "" is the ensemble.
        input: modality; "" is the detector's own, that of `paths`, or flair; of the ensemble all that a case has.
        paths: the cases, as they were named.

    Raises:
        ValueError: if there is no such modality or detector, or the detector is made for another modality.
    """
    from mmccd.detector import SIGNS, load_detector

    if input and input not in SIGNS:
        raise ValueError(f"unknown input {input!r}: choose {', '.join(SIGNS)}")
    name = packaged_name(weights or "ensemble", input or infer_modality(paths) or "flair")
    detector = load_detector(name)
    made_for = detector.config.input
    if input and input not in made_for.split("+"):
        raise ValueError(f"the weights {name} are made for {made_for}, not {input}: choose one of the two")
    return detector, name


def evidence_words(case: dict[str, Any]) -> str:
    """Return which modalities an ensemble looked at in a case of `detect.json`, and what each gave; else ""."""
    shares = case.get("evidence") or {}
    gave = {m: f" ({v:.0%} of the evidence)" for m, v in shares.items() if len(shares) > 1}
    return ", in " + ", ".join(m + gave.get(m, "") for m in case["input"].split("+")) if case.get("input") else ""


def print_cases(cases: Sequence[dict[str, Any]], out: str | Path, made_by: str, quiet: bool = False) -> int:
    """Print a line for each case, and what went wrong on standard error.

    Args:
        cases: records of `detect.json`.
        out: folder of the results.
        made_by: detector and input, for the last line.
        quiet: say what went wrong only.

    Returns:
        The exit code: 2 if a case failed.
    """
    for c in cases:
        for note in c.get("notes", ()):
            say(f"{c['id']}: {note}")
        if c["status"] == "failed":
            say(c["error"])
        elif not quiet:
            kept = " (kept)" if c["status"] == "skipped" else ""
            show(f"{c['id']}: {c['volume_ml']:.1f} ml found{evidence_words(c)}{kept}")
    done = [c for c in cases if c["status"] != "failed"]
    if done and not quiet:
        show(f"{len(done)} of {counted(len(cases), 'case')} in {out}, {made_by}")
    return 0 if len(done) == len(cases) else 2


@command(
    DetectOptions,
    epilog="Example: mmccd detect cases --out results --input t2. "
    "With a network: mmccd detect cases --out results --weights mmccd",
)
def detect(options: DetectOptions) -> int:
    """Find what is unusual in each case: map, segmentation, report."""
    device, input = "cpu" if options.scheduler else pick_device(options.device), options.input.lower()
    from mmccd.cases.names import find_cases
    from mmccd.detection import detect_many, recalibrate
    from mmccd.detection.calibration import threshold_note
    from mmccd.postprocess import PostProcess

    check_beside(options)
    post = PostProcess(options.median, options.erode, options.smallest)  # refuses here, before the work
    detector, name = pick_detector(options.weights, input, options.cases)
    made_by_command = command_for_record(options)
    if hasattr(detector, "show_progress"):
        alone = options.jobs == 1 and not options.scheduler
        detector.show_progress = alone and sys.stderr.isatty()  # type: ignore[bad-argument-type]  no tensor
    detector.to(device)
    with interrupted_as("stopped; finished cases are kept, go on with --skip-existing"):
        options = strip_first(options)
        if options.healthy:
            where: dict[str, Any] = (
                {"scheduler": options.scheduler, "device": options.device} if options.scheduler else {}
            )
            recalibrate(detector, options.healthy, input or None, post, seed=options.seed, progress=True, **where)
        if note := threshold_note(detector, post):
            say(note)
        result = detect_many(
            options.cases,
            detector,
            options.out,
            input=input or None,
            weights=name,
            seed=options.seed,
            skip_existing=options.skip_existing,
            overwrite=options.overwrite,
            progress=True,
            post=post,
            command=made_by_command,
            jobs=options.jobs,
            scheduler=options.scheduler,
            device=options.device if options.scheduler else device,
        )
    put_json(result, options.json)
    calibrated = (detector.calibration or {}).get("notes", ()) if options.healthy else ()
    for note in (*calibrated, *result.get("notes", ())):
        say(note)
    wanted = {id for id, _ in find_cases(options.cases)}  # the folder may hold others from an earlier run
    made_by = name + f" on {result['input']}" * ("+" not in result["input"]) + f", map after: {post}" * bool(post)
    cases = [c for c in result["cases"] if c["id"] in wanted]
    code = print_cases(cases, options.out, made_by, quiet=options.json == "-")
    done = [c["id"] for c in cases if c["status"] != "failed"]
    if options.viewer and done:
        from mmccd.detection.viewer import write_viewer

        notebook = write_viewer(options.out, done)
        if options.json != "-":
            show(f"jupyter lab {notebook} shows them in three dimensions")
    return code
