""""""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Device, Json, check_json, put_json
from mmccd.explorer.saving import save_view
from mmccd.explorer.server import check_app, explorer_notebook, serve
from mmccd.registry import masked_methods, packaged_name
from mmccd.runtime import pick_device
from mmccd.weights.hub import absolute_name


def asked_view(
    a,  # what was asked for, by option
) -> dict:  # fields of an `explore.View`
    "Words into fields; what was not asked for is left out."
    strip = re.fullmatch(r"(-?\d+):(\d+)", a.strip)
    if a.strip and not strip:
        raise ValueError(f"a strip is START:WIDTH in pixels of the networks, such as 28:8, got {a.strip!r}")
    if a.swept != "all" and not a.swept.isdecimal():
        raise ValueError(f"swept is a number of masks, or all, got {a.swept!r}")
    start, width = map(int, strip.groups()) if strip else (None, None)
    asked = dict(
        place=a.slice,
        input=a.input.lower(),
        target=a.target.lower(),
        start=start,
        width=width,
        sampler=a.sampler,
        steps=a.steps,
        seed=a.seed or None,
    )
    return {k: v for k, v in asked.items() if v not in (None, "")}


def explorer_weights(
    name: str,  # as given
    input: str,  # modality, or ""
) -> str:  # for `explore.Explorer`, from any folder
    "The short names stand for all ways of a method; a run is found from anywhere."
    if folder := absolute_name(name):
        return folder
    return name if name in masked_methods() else packaged_name(name, input or "flair")


def explored(
    a,  # what was asked for, by option
) -> tuple:  # (`Explorer`, fields of the view that were asked for)
    "Who and what; what cannot be shown is refused."
    made_up = a.kind or a.subject_seed is not None
    if a.case and made_up:
        raise ValueError("--kind and --subject-seed are for made-up subjects: leave them out, or CASE")
    said, device = asked_view(a), pick_device(a.device)
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.subjects import file_subject, phantom_subject

    seed = {} if a.subject_seed is None else {"seed": a.subject_seed}
    if a.case:
        subject = file_subject(a.case.expanduser().absolute(), said.get("input"))
    else:
        subject = phantom_subject(a.kind or "glioma", **seed)
    explorer = Explorer(subject, explorer_weights(a.weights, a.input), device)
    swept = len(explorer.masks(explorer.first_view(**said))) if a.swept == "all" else int(a.swept)
    if swept:
        said |= dict(swept=swept, by_hand=bool(a.strip))
    explorer.first_view(**said)  # refuses
    return explorer, said


def print_view(
    explorer,  # an `Explorer`
    view,  # what was looked at
    files,  # from `save_view`
    a,  # what was asked for, by option
):
    "What was saved, as JSON or in words."
    from dataclasses import asdict

    scores = explorer.scores(view)
    if scores is not None:
        scores = {k: float(v) if v == v else None for k, v in scores.items()}
    put_json(
        {
            "subject": explorer.subject.case.id,
            "weights": str(explorer.weights),
            "view": asdict(view),
            "scores": scores,
            "threshold": view.threshold,
            "calibrated": explorer.threshold(view),
            "words": explorer.describe(view),
            "folder": str(a.save),
            "files": files,
        },
        a.json,
    )
    if a.json != "-":
        print(explorer.describe(view), f"{', '.join(files.values())} in {a.save}", sep="\n")


def run_explorer(
    asked: dict,  # what was asked for, by option
):
    "Save, or serve."
    a = SimpleNamespace(**asked)
    check_json(a.json)
    if a.json and not a.save:
        raise ValueError("--json tells what was saved: give --save DIR too")
    port = None if a.save else check_app(a.how, a.port)
    explorer, said = explored(a)
    if a.save:
        view = explorer.first_view(**said)
        return print_view(explorer, view, save_view(explorer, view, a.save, a.overwrite), a)
    book = explorer_notebook(
        explorer.subject.call, dict(weights=str(explorer.weights), device=a.device, out=os.getcwd()) | said, a.how
    )
    del explorer  # the server's own takes its place
    serve(a.how, book, port, not a.no_browser)


@app.command(
    epilog="Example: mmccd explore CASE --with lab. Pictures, no page: mmccd explore CASE --slice 78 --swept all --save pictures"
)
def explore(
    case: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CASE]",
            help="Folder of a case, or a NIfTI file.  [default: a made-up patient]",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(metavar="glioma|ms|infarct|artefact|healthy", help="Of the made-up subject.  [default: glioma]"),
    ] = "",
    subject_seed: Annotated[
        int | None,
        typer.Option(min=0, max=10**6, metavar="N", help="Of the made-up subject.  [default: 404]", show_default=False),
    ] = None,
    input: Annotated[
        str, typer.Option(metavar="flair|t1|t2", help="Modality to begin with.  [default: that of the networks]")
    ] = "",
    target: Annotated[str, typer.Option(metavar="flair|t1|t2", help="Modality to imagine.")] = "",
    slice: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Axial slice.  [default: that with most lesion, else most brain]", show_default=False
        ),
    ] = None,
    strip: Annotated[
        str,
        typer.Option(
            metavar="START:WIDTH",
            help="First hidden column and how many, in pixels of the networks.  [default: through the lesion]",
        ),
    ] = "",
    swept: Annotated[
        str, typer.Option(metavar="N|all", help="Masks of the sweep that are in the map; 0: that strip alone.")
    ] = "0",
    sampler: Annotated[
        str, typer.Option(metavar="NAME", help="Which masks fill the map: fast, paper or 'one by one'.")
    ] = "fast",
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=100, metavar="N", help="Of denoising.  [default: the sampler's]", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Seed of the noise: same seed, same result.")] = 0,
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN", help="mmccd or masked, which come with the package; or RUN, a folder with config.json."
        ),
    ] = "mmccd",
    device: Device = "auto",  # where networks run
    how: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="voila|lab|notebook",
            help="What shows the page: Voila (no code on it), JupyterLab or Notebook 7.",
        ),
    ] = "voila",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Open no page: write view.png, steps.gif, strips.gif, view.txt and view.py into DIR, made where missing, and end.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --save: replace such files in DIR.")] = False,
    json: Json = "",  # file, or - for standard output
):
    "Hide a part, watch a network imagine it: a page with controls."
    return run_explorer(locals())
