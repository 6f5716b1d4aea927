"""`mmccd explore`: the explorer as a page in the browser, or its pictures in a folder."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Device, Json, check_json, put_json
from mmccd.explorer.saving import save_view
from mmccd.explorer.server import check_server, explorer_notebook, serve
from mmccd.registry import packaged_name
from mmccd.runtime import pick_device

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.view import View


@dataclass(frozen=True)
class ExploreOptions:
    """The options of `mmccd explore`, as they were given; `explore` describes them."""

    case: Path | None
    kind: str
    subject_seed: int | None
    input: str
    target: str
    slice: int | None
    strip: str
    swept: str
    sampler: str
    steps: int | None
    seed: int
    weights: str
    device: str
    how: str
    port: int
    no_browser: bool
    save: Path | None
    overwrite: bool
    json: str


def view_fields(o: ExploreOptions) -> dict[str, Any]:
    """Fields of a `View` that were given, `swept` aside; ValueError where an option cannot be understood."""
    strip = re.fullmatch(r"(-?\d+):(\d+)", o.strip)
    if o.strip and not strip:
        raise ValueError(f"a strip is START:WIDTH in pixels of the networks, such as 28:8, got {o.strip!r}")
    if o.swept != "all" and not o.swept.isdecimal():
        raise ValueError(f"swept is a number of masks, or all, got {o.swept!r}")
    start, width = map(int, strip.groups()) if strip else (None, None)
    fields = {
        "place": o.slice,
        "input": o.input.lower(),
        "target": o.target.lower(),
        "start": start,
        "width": width,
        "sampler": o.sampler,
        "steps": o.steps,
        "seed": o.seed or None,
    }
    return {k: v for k, v in fields.items() if v not in (None, "")}


def explorer_weights(name: str, input: str) -> str:
    """Weights for the `Explorer` from any folder: "mmccd" and "masked" stand for all pairs of modalities.

    Args:
        name: As given after --weights; a folder that holds a detector comes before a short name.
        input: Modality, or "".
    """
    from mmccd.explorer.networks import PACKAGED

    if (Path(name) / "config.json").is_file():
        return str(Path(name).absolute())
    return name if name in PACKAGED else packaged_name(name, input or "flair")


def open_explorer(o: ExploreOptions) -> tuple[Explorer, dict[str, Any]]:
    """The explorer, and all fields of the view that were given; ValueError for what cannot be shown."""
    if o.case and (o.kind or o.subject_seed is not None):
        raise ValueError("--kind and --subject-seed are for phantoms: leave them out, or CASE")
    fields, device = view_fields(o), pick_device(o.device)
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.subjects import file_subject, phantom_subject

    if o.case:
        subject = file_subject(o.case.expanduser().absolute(), fields.get("input"))
    else:
        given: dict[str, Any] = {"kind": o.kind or None, "seed": o.subject_seed}
        subject = phantom_subject(**{k: v for k, v in given.items() if v is not None})
    explorer = Explorer(subject, explorer_weights(o.weights, o.input), device)
    swept = len(explorer.masks(explorer.first_view(**fields))) if o.swept == "all" else int(o.swept)
    if swept:
        fields |= {"swept": swept, "by_hand": bool(o.strip)}
    explorer.first_view(**fields)  # raises where there is no such view
    return explorer, fields


def save_pictures(explorer: Explorer, view: View, o: ExploreOptions) -> None:
    """Write all pictures of `view`, with a progress bar, and report them as text or JSON."""
    from tqdm import tqdm

    assert o.save is not None
    with tqdm(desc="predict", unit="evaluation", disable=None) as bar:
        explorer.on_evaluation = lambda key: bar.update()
        files = save_view(explorer, view, o.save, o.overwrite)
    scores = explorer.scores(view)
    if scores is not None:
        scores = {k: float(v) if v == v else None for k, v in scores.items()}
    report = {
        "subject": explorer.subject.case.id,
        "weights": str(explorer.weights),
        "view": asdict(view),
        "scores": scores,
        "threshold": view.threshold,
        "calibrated": explorer.threshold(view),
        "words": explorer.describe(view),
        "folder": str(o.save),
        "files": files,
    }
    put_json(report, o.json)
    if o.json != "-":
        print(explorer.describe(view), f"{', '.join(files.values())} in {o.save}", sep="\n")


def open_page(url: str, browser: bool) -> None:
    """Print the address of the page, and open it where a browser is wanted."""
    import webbrowser

    print(f"The explorer is at {url}\nCtrl-C ends it.", flush=True)
    if browser:
        webbrowser.open(url)


def run_explorer(o: ExploreOptions) -> None:
    """Save pictures, or serve the page until it is stopped."""
    check_json(o.json)
    if o.json and not o.save:
        raise ValueError("--json reports what was saved: give --save DIR too")
    port = 0 if o.save else check_server(o.how, o.port)
    explorer, fields = open_explorer(o)
    if o.save:
        return save_pictures(explorer, explorer.first_view(**fields), o)
    options = {"weights": str(explorer.weights), "device": o.device, "out": os.getcwd()} | fields
    notebook = explorer_notebook(explorer.subject.call, options, o.how)
    del explorer  # the kernel behind the page makes its own
    serve(o.how, notebook, port, lambda url: open_page(url, not o.no_browser))


EPILOG = (
    "Example: mmccd explore CASE --with lab. "
    "Pictures, no page: mmccd explore CASE --slice 78 --swept all --save pictures"
)
HELP = {
    "case": "Folder of a case, or a NIfTI file.  [default: a phantom]",
    "slice": "Axial slice.  [default: that with most lesion, else most brain]",
    "strip": "First hidden column and how many, in pixels of the networks.  [default: through the lesion]",
    "swept": "Masks of the sweep that are in the map; 0: that strip alone.",
    "sampler": "Which masks fill the map: fast, paper or 'one by one'.",
    "weights": "mmccd or masked, which come with the package; or RUN, a folder with config.json.",
    "how": "What shows the page: Voila (no code on it), JupyterLab or Notebook 7.",
    "save": "Open no page: write view.png, steps.gif, strips.gif, view.txt and view.py into DIR, made where missing, "
    "and end.",
}


def integer(metavar: str, help: str, high: int, low: int = 0) -> Any:
    """A typer option for a whole number whose default stands in its help."""
    return typer.Option(metavar=metavar, help=help, min=low, max=high, show_default=False)


@app.command(epilog=EPILOG)
def explore(
    case: Annotated[Path | None, typer.Argument(metavar="[CASE]", help=HELP["case"], show_default=False)] = None,
    kind: Annotated[
        str,
        typer.Option(metavar="glioma|ms|infarct|artefact|healthy", help="Of the phantom.  [default: glioma]"),
    ] = "",
    subject_seed: Annotated[int | None, integer("N", "Of the phantom.  [default: 404]", 10**6)] = None,
    input: Annotated[
        str, typer.Option(metavar="flair|t1|t2", help="Modality to begin with.  [default: that of the networks]")
    ] = "",
    target: Annotated[str, typer.Option(metavar="flair|t1|t2", help="Modality to predict.")] = "",
    slice: Annotated[int | None, typer.Option(metavar="N", help=HELP["slice"], show_default=False)] = None,
    strip: Annotated[str, typer.Option(metavar="START:WIDTH", help=HELP["strip"])] = "",
    swept: Annotated[str, typer.Option(metavar="N|all", help=HELP["swept"])] = "0",
    sampler: Annotated[str, typer.Option(metavar="NAME", help=HELP["sampler"])] = "fast",
    steps: Annotated[int | None, integer("N", "Of denoising.  [default: the sampler's]", 100, low=1)] = None,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Seed of the noise: same seed, same result.")] = 0,
    weights: Annotated[str, typer.Option(metavar="NAME|RUN", help=HELP["weights"])] = "mmccd",
    device: Device = "auto",
    how: Annotated[str, typer.Option("--with", metavar="voila|lab|notebook", help=HELP["how"])] = "voila",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False,
    save: Annotated[Path | None, typer.Option(metavar="DIR", help=HELP["save"], show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With --save: replace such files in DIR.")] = False,
    json: Json = "",
) -> None:
    """Hide a part of a slice, watch a network predict it: a page with controls."""
    run_explorer(ExploreOptions(**locals()))
