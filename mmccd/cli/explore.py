"""`mmccd explore`: the explorer as a page in the browser, or its pictures in a folder."""

import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Device, Options, check_json, put_json, show
from mmccd.explorer.saving import save_view
from mmccd.explorer.server import check_server, explorer_notebook, private_folder, serve, write_redirect
from mmccd.extras import require
from mmccd.registry import masked_methods, packaged_name
from mmccd.runtime import pick_device

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.view import View


def integer(metavar: str, help: str, high: int, low: int = 0) -> Any:
    """Return an option for a whole number from `low` to `high` whose default stands in its help."""
    return typer.Option(metavar=metavar, help=help, min=low, max=high, show_default=False)


@dataclass(frozen=True)
class ExploreOptions(Options):
    """What the page shows at first, what serves it, or where its pictures are saved."""

    command: ClassVar[str] = "explore"
    result: ClassVar[frozenset[str]] = frozenset(("subject", "view", "words"))

    case: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CASE]", help="Folder of a case, or a NIfTI file.  [default: a phantom]", show_default=False
        ),
    ] = None
    kind: Annotated[
        str,
        typer.Option(metavar="glioma|ms|infarct|artefact|healthy", help="Of the phantom.  [default: glioma]"),
    ] = ""
    subject_seed: Annotated[int | None, integer("N", "Of the phantom.  [default: 404]", 10**6)] = None
    input: Annotated[
        str, typer.Option(metavar="flair|t1|t2", help="Modality to begin with.  [default: that of the networks]")
    ] = ""
    target: Annotated[str, typer.Option(metavar="flair|t1|t2", help="Modality to predict.")] = ""
    slice: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Axial slice.  [default: that with most lesion, else most brain]", show_default=False
        ),
    ] = None
    strip: Annotated[
        str,
        typer.Option(
            metavar="START:WIDTH",
            help="First hidden column and how many, in pixels of the networks.  [default: through the lesion]",
        ),
    ] = ""
    swept: Annotated[
        str, typer.Option(metavar="N|all", help="Masks of the sweep that are in the map; 0: that strip alone.")
    ] = "0"
    sampler: Annotated[
        str, typer.Option(metavar="NAME", help="Which masks fill the map: fast, paper or 'one by one'.")
    ] = "fast"
    steps: Annotated[int | None, integer("N", "Of denoising.  [default: the sampler's]", 100, low=1)] = None
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Seed of the noise: same seed, same result.")] = 0
    weights: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN", help="mmccd or masked, which come with the package; or RUN, a folder with config.json."
        ),
    ] = "mmccd"
    device: Device = "auto"
    how: Annotated[
        str,
        typer.Option(
            "--with",
            metavar="voila|lab|notebook",
            help="What shows the page: Voila (no code on it), JupyterLab or Notebook 7.",
        ),
    ] = "voila"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: a free one.")] = 0
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address of the page.")] = False
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Open no page: write view.png, steps.gif, strips.gif, view.txt and view.py into DIR, made where "
            "missing, and end.",
            show_default=False,
        ),
    ] = None
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page that needs nothing else, with every strip, step and map of the slice, and end.",
            show_default=False,
        ),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="With --save or --html: replace such files that are there.")
    ] = False


def view_fields(options: ExploreOptions) -> dict[str, Any]:
    """Return the fields of a `View` that were given, `swept` aside; ValueError where an option cannot be understood."""
    strip = re.fullmatch(r"(-?\d+):(\d+)", options.strip)
    if options.strip and not strip:
        raise ValueError(f"a strip is START:WIDTH in pixels of the networks, such as 28:8, got {options.strip!r}")
    if options.swept != "all" and not options.swept.isdecimal():
        raise ValueError(f"swept is a number of masks, or all, got {options.swept!r}")
    start, width = map(int, strip.groups()) if strip else (None, None)
    fields = {
        "place": options.slice,
        "input": options.input.lower(),
        "target": options.target.lower(),
        "start": start,
        "width": width,
        "sampler": options.sampler,
        "steps": options.steps,
        "seed": options.seed or None,
    }
    return {k: v for k, v in fields.items() if v not in (None, "")}


def explorer_weights(name: str, input: str) -> str:
    """Return the weights of an `Explorer`, as they are understood from any working directory.

    Args:
        name: as given after --weights; a folder that holds a detector comes before a short name, and the short names
            of masked methods stand for all pairs of modalities.
        input: modality, or "".
    """
    from mmccd.weights.hub import absolute_name

    if folder := absolute_name(name):
        return folder
    return name if name in masked_methods() else packaged_name(name, input or "flair")


def open_explorer(options: ExploreOptions) -> tuple["Explorer", dict[str, Any]]:
    """Return the explorer, and all fields of the view that were given; ValueError for what cannot be shown."""
    if options.case and (options.kind or options.subject_seed is not None):
        raise ValueError("--kind and --subject-seed are for phantoms: leave them out, or CASE")
    fields, device = view_fields(options), pick_device(options.device)
    from mmccd.explorer.explorer import Explorer
    from mmccd.explorer.subjects import file_subject, phantom_subject

    if options.case:
        subject = file_subject(options.case.absolute(), fields.get("input"))
    else:
        require("a phantom", "nilearn", instead="name a CASE of yours")
        given: dict[str, Any] = {"kind": options.kind or None, "seed": options.subject_seed}
        subject = phantom_subject(**{k: v for k, v in given.items() if v is not None})
    explorer = Explorer(subject, explorer_weights(options.weights, options.input), device)
    swept = len(explorer.masks(explorer.first_view(**fields))) if options.swept == "all" else int(options.swept)
    if swept:
        fields |= {"swept": swept, "by_hand": bool(options.strip)}
    explorer.first_view(**fields)  # raises where there is no such view
    return explorer, fields


def save_pictures(explorer: "Explorer", view: "View", out: Path, options: ExploreOptions) -> None:
    """Write all pictures of `view` into a folder, with a progress bar, and report them as text or JSON."""
    from tqdm import tqdm

    with tqdm(desc="predict", unit="evaluation", disable=None) as bar:
        explorer.on_evaluation = lambda key: bar.update()
        files = save_view(explorer, view, out, options.overwrite)
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
        "folder": str(out),
        "files": files,
    }
    put_json(report, options.json)
    if options.json != "-":
        show(f"{explorer.describe(view)}\n{', '.join(files.values())} in {out}")


def save_page(explorer: "Explorer", view: "View", options: ExploreOptions) -> None:
    """Write the page of a slice, with a progress bar, and report it as text or JSON."""
    from tqdm import tqdm

    from mmccd.explorer.page import write_page

    assert options.html
    with tqdm(desc="predict", unit="evaluation", disable=None) as bar:
        explorer.on_evaluation = lambda key: bar.update()
        path = write_page(explorer, view, options.html, options.overwrite)
    megabytes = path.stat().st_size / 1e6
    report = {"subject": explorer.subject.case.id, "view": asdict(view), "words": explorer.describe(view)}
    put_json(report | {"file": str(path), "megabytes": round(megabytes, 2)}, options.json)
    if options.json != "-":
        show(f"{path}, {megabytes:.1f} MB: open it in a browser, with or without a network")


def open_page(url: str, browser: bool, folder: Path) -> None:
    """Print the address of the page, and open it where a browser is wanted, by way of a file in a private folder."""
    import webbrowser

    print(f"The explorer is at {url}\nCtrl-C ends it.", flush=True)
    if browser:
        webbrowser.open(write_redirect(url, folder).as_uri())


@command(
    ExploreOptions,
    epilog="Example: mmccd explore CASE --with lab. "
    "Pictures, no page: mmccd explore CASE --slice 78 --swept all --save pictures",
)
def explore(options: ExploreOptions) -> None:
    """Hide a part, watch a network predict it: a page with controls."""
    check_json(options)
    if options.save and options.html:
        raise ValueError("--save writes pictures and --html a page: give one of them")
    if options.json and not (options.save or options.html):
        raise ValueError("--json reports what was saved: give --save DIR or --html FILE too")
    port = 0 if options.save or options.html else check_server(options.how, options.port)
    explorer, fields = open_explorer(options)
    if options.html:
        return save_page(explorer, explorer.first_view(**fields), options)
    if options.save:
        return save_pictures(explorer, explorer.first_view(**fields), options.save, options)
    arguments = {"weights": str(explorer.weights), "device": options.device, "out": os.getcwd()} | fields
    notebook = explorer_notebook(explorer.subject.call, arguments, options.how)
    del explorer  # the kernel behind the page makes its own
    with private_folder() as folder:
        ready = lambda url: open_page(url, not options.no_browser, folder)  # noqa: E731
        serve(options.how, notebook, port, ready, folder=folder)
