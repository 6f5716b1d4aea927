""""""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Device, Input, Json, Seed, check_json, put_json
from mmccd.registry import packaged_name
from mmccd.runtime import pick_device, say


def infer_modality(
    paths,  # the cases as named
) -> str:  # the modality that all say they are; "" where they differ, are folders, or do not say
    "What single files say that they are."
    from mmccd.cases.names import split_name
    from mmccd.phantom import MODALITIES

    said = {split_name(p)[1] if Path(p).is_file() else None for p in paths}
    return said.pop() if len(said) == 1 and said <= set(MODALITIES) else ""


def pick_detector(
    weights: str = "",  # a folder, a packaged name, a hub id, or a short name; "": the threshold
    input: str = "",  # modality to look at; "": the detector's own, that of the files, or flair
    paths=(),  # the cases as named
) -> tuple:  # (detector, its full name)
    "The detector that was asked for."
    from mmccd.detector import SIGNS, load_detector

    if input and input not in SIGNS:
        raise ValueError(f"unknown input {input!r}: choose {', '.join(SIGNS)}")
    name = packaged_name(weights, input or infer_modality(paths) or "flair")
    detector = load_detector(name)
    made_for = detector.config.input
    if input and input != made_for:
        raise ValueError(f"the weights {name} are made for {made_for}, not {input}: choose one of the two")
    return detector, name


def print_cases(
    cases,  # records of detect.json
    out,  # folder of the results
    made_by: str,  # detector and input
    quiet: bool = False,  # errors only
) -> int:  # exit code: 2 if a case failed
    "A line for each case; errors on standard error."
    for c in cases:
        if c["status"] == "failed":
            say(c["error"])
        elif not quiet:
            print(f"{c['id']}: {c['volume_ml']:.1f} ml found" + (" (kept)" if c["status"] == "skipped" else ""))
    done = [c for c in cases if c["status"] != "failed"]
    if done and not quiet:
        print(f"{len(done)} of {len(cases)} case{'s' * (len(cases) != 1)} in {out}, {made_by}")
    return 0 if len(done) == len(cases) else 2


def run_detect(
    asked: dict,  # what was asked for, by option
) -> int:  # exit code: 2 if a case failed
    "Detect; what the threshold rests on is said where it does not fit."
    a = SimpleNamespace(**asked)
    check_json(a.json)
    place, input = pick_device(a.device), a.input.lower()
    from mmccd.cases.names import find_cases
    from mmccd.detection.calibration import recalibrate, threshold_note
    from mmccd.detection.detect import detect_many
    from mmccd.postprocess import PostProcess

    post = PostProcess(a.median, a.erode, a.smallest)  # refuses here, before the work
    detector, name = pick_detector(a.weights, input, a.cases)
    if hasattr(detector, "show_progress"):
        detector.show_progress = sys.stderr.isatty()
    detector.to(place)
    if a.healthy:
        recalibrate(detector, a.healthy, input or None, post, seed=a.seed, progress=True)
    if note := threshold_note(detector, post):
        say(note)
    result = detect_many(
        a.cases, detector, a.out, input or None, name, a.seed, a.skip_existing, a.overwrite, progress=True, post=post
    )
    put_json(result, a.json)
    asked_for = {id for id, _ in find_cases(a.cases)}  # the folder may hold others from an earlier run
    made_by = f"{name} on {result['input']}" + f", map after: {post}" * bool(post)
    return print_cases([c for c in result["cases"] if c["id"] in asked_for], a.out, made_by, quiet=a.json == "-")


@app.command(
    epilog="Example: mmccd detect cases --out results --input t2. With a network: mmccd detect cases --out results --weights mmccd"
)
def detect(
    cases: Annotated[
        list[Path],
        typer.Argument(metavar="CASE...", help="Folders of cases, folders with cases in them, or NIfTI files."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; made where missing.")],
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="NAME of a detector that comes with mmccd: threshold, equalised, cycle, masked, mmccd, ae, ae-dense, vae, dae, ddpm or ddpm-simplex (that of the input), or in full, such as cycle-t1-t2; or RUN, a folder with config.json, or owner/name on the Hugging Face hub.  [default: threshold]",
        ),
    ] = "",
    input: Input = "",  # modality to look at
    device: Device = "auto",  # where networks run
    seed: Seed = 0,  # of all randomness
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave complete results of the same detector alone.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the results of another detector, threshold, input, seed or post-processing that are in DIR, all of them.",
        ),
    ] = False,
    median: Annotated[
        int,
        typer.Option(metavar="N", help="Post-processing: median of the map over N x N x N voxels, N odd; 0 is none."),
    ] = 0,
    erode: Annotated[
        float, typer.Option(metavar="MM", help="Post-processing: the outermost MM of the brain are not judged.")
    ] = 0.0,
    smallest: Annotated[float, typer.Option(metavar="ML", help="Post-processing: smaller pieces are dropped.")] = 0.0,
    healthy: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="CASE",
            help="Healthy case, or a folder of them, to calibrate the threshold on, with the same post-processing; may be given several times.  [default: the detector's own threshold]",
            show_default=False,
        ),
    ] = None,
    json: Json = "",  # file, or - for standard output
):
    "Find what is unusual in each case: map, segmentation, report."
    return run_detect(locals())
