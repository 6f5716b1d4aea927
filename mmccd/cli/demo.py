"""`mmccd demo`: the plain threshold, the cycle and MMCCD on two phantoms, side by side in a picture and a table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Device, Options, Seed, put_json, show
from mmccd.registry import METHODS
from mmccd.runtime import pick_device, shell_line
from mmccd.weights.hub import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INPUTS = ("flair", "t2", "t1")  # a row of the picture each

SHOWN = ("threshold", "cycle", "mmccd")  # names of methods, in the order of the columns

SLICES = range(70, 78)  # axial, of both phantoms


@dataclass(frozen=True)
class DemoOptions(Options):
    """Where the demo goes."""

    command: ClassVar[str] = "demo"
    result: ClassVar[frozenset[str]] = frozenset(("seed", "results"))
    has_more: ClassVar[bool] = False

    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything; made where missing.")] = Path(
        "mmccd-demo"
    )
    device: Device = "auto"
    seed: Seed = 0


def detectors() -> list[tuple[str, str]]:
    """Return method and input of all detectors of the demo, in the order of the table."""
    return [(method, input) for input in INPUTS for method in SHOWN]


def detector_name(method: str, input: str) -> str:
    """Return the packaged name of a method for an input, such as cycle-flair-t1."""
    return f"{method}-{input}-{METHODS[method].packaged[input]}".rstrip("-")


def detector_title(method: str, input: str, short: bool = False) -> str:
    """Return what a detector does, for a table: `Cyclic U-Net on FLAIR via T1`; without the input if `short`."""
    target = METHODS[method].packaged[input]
    return METHODS[method].title + f" on {input.upper()}" * (not short) + f" via {target.upper()}" * bool(target)


def run_detectors(paths: list[str], out: Path, device: str, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Detect with every detector of the demo, each in its own folder, and return the scores by its name.

    Args:
        paths: folders of the two subjects.
        out: folder of the demo, which exists.
        device: cpu, cuda or mps.
        seed: of the randomness.
    """
    from tqdm import tqdm

    from mmccd.detection import detect_many, evaluate
    from mmccd.detector import load_detector

    scores = {detector_name(method, input): {} for method, input in detectors()}
    for name in tqdm(scores, "detect", unit="detector", disable=None):
        detector = load_detector(name).to(device)
        detect_many(paths, detector, out / name, weights=name, seed=seed, overwrite=True, stop=True)
        scores[name] = evaluate(out / name, paths, stop=True)
    return scores


def demo_table(scores: dict[str, dict[str, Any]]) -> str:
    """Return the scores of all detectors as one table, with the share of the healthy subject that is called abnormal.

    Args:
        scores: from `run_detectors`.
    """
    from mmccd.summary import format_table
    from mmccd.tables import align_table

    rows = {detector_title(method, input): scores[detector_name(method, input)] for method, input in detectors()}
    floor = next(iter(rows.values()))["floor"]
    head, _, *lines = format_table(
        {title: r["scores"] for title, r in rows.items()} | {"everything positive": floor}
    ).split("\n")
    last = ["FPR, healthy one", "---", *(f"{r['healthy'][0]['fpr']:.3f}" for r in rows.values()), "1.000"]
    head = head.replace(", mean [95 % bootstrap interval]", "")  # of one subject there is none
    notes = "FPR: of what is healthy in that slice; FPR, healthy one: of the whole subject without lesion."
    table = align_table("\n".join(f"{line} {value} |" for line, value in zip(lines, last)))
    return f"{head}\n{notes}\n\n{table}"


def demo_row(out: Path, id: str, input: str, scores: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the panels of one modality, for `mmccd.viz.show_image`: the input, then map and segmentation by detector.

    They show the axial slice with most lesion. Each map has a fixed scale, from 0 to twice its threshold, so that the
    middle of its bar is where a pixel becomes positive.

    Args:
        out: folder of the demo.
        id: of the case with the lesion.
        input: the modality.
        scores: from `run_detectors`.
    """
    from mmccd.detection.evaluation import lesion_of, read_result
    from mmccd.slices import to_slices
    from mmccd.viz import compare, crop_to

    row: list[dict[str, Any]] = []
    for method in SHOWN:
        name = detector_name(method, input)
        anomaly, case = read_result(id, out / name, out / "cases" / id, input)
        lesion, found = lesion_of(case), scores[name]["scores"]
        k = int((lesion & case.brain).sum((0, 1)).argmax())
        box = crop_to(to_slices(case.brain, [k]))
        x, a, truth = (to_slices(v, [k])[0, 0][box] for v in (case.normalised(input), anomaly, lesion))
        h, dice = found["threshold"], found["summary"]["dice"]["mean"]
        if not row:
            row.append({"image": x, "truth": truth, "title": input.upper(), "sides": True})
        shown = {"vmin": 0, "vmax": 2 * h, "cmap": "inferno", "title": detector_title(method, input, short=True)}
        row.append({"image": a, "truth": truth} | shown)
        row.append({"image": compare(x, a > h, truth), "title": f"Dice {dice:.2f}"})
    return row


def demo_figure(rows: list[list[dict[str, Any]]], id: str) -> "Figure":
    """Return the picture of the demo.

    Args:
        rows: of panels, from `demo_row`.
        id: of the case with the lesion.
    """
    from mmccd.viz import add_bar, add_legend, empty_grid, show_image

    title = f"{id}: map and segmentation by {', '.join(METHODS[m].title for m in SHOWN[:-1])} and "
    title += f"{METHODS[SHOWN[-1]].title}\none phantom patient; for research and teaching, not a medical device"
    sheet, grid = empty_grid([[p["image"] for p in row] for row in rows], 17, True, title)
    sheet.set_figheight(0.93 * sheet.get_figheight())  # the bars take from the width, the titles add to the height
    for row, axes in zip(rows, grid):
        for ax, panel in zip(axes, row):
            drawn, top = show_image(ax, **panel), panel.get("vmax")
            if top:
                bar = add_bar(sheet, [drawn], [ax], where="left")
                bar.set_ticks([0, top / 2, top], labels=["0", f"{top / 2:.3g}", f"{top:.3g}"])
    return add_legend(sheet)


def demo_text(out: Path, id: str) -> str:
    """Return where things are and what to type next.

    Args:
        out: folder of the demo.
        id: of the case with the lesion.
    """
    cases, one = out / "cases", out / detector_name("mmccd", "flair") / id / id
    words = {"cases": shell_line(cases), "next": shell_line(out / "cycle-t1-t2")}
    return f"""
One phantom patient proves nothing. What the weights do on many phantoms stands in their cards, such as
         {WEIGHTS / "mmccd" / "README.md"}

Look at  {out / "compare.png"}
         {one}_report.png (so for each detector and case)
NIfTI    {one}_anomaly.nii.gz and _segmentation.nii.gz, on the grid of
         {cases / id}

Next:    mmccd detect {words["cases"]} --out {words["next"]} --weights cycle-t1-t2
         mmccd evaluate {words["next"]} {words["cases"]}
         mmccd detect YOUR_CASE --out results --weights mmccd      (skull-stripped, a folder or a NIfTI file)"""


@command(DemoOptions, epilog="Example: mmccd demo --out demo", needs="train")
def demo(options: DemoOptions) -> None:
    """Two phantom subjects; threshold, cycle and MMCCD side by side."""
    device, out = pick_device(options.device), options.out
    from mmccd.cases.phantoms import make_subjects
    from mmccd.files import writing
    from mmccd.viz import save_png

    made = make_subjects(out / "cases", [("glioma", 3), ("healthy", 0)], options.seed, SLICES, overwrite=True)
    scores, id = run_detectors([m["folder"] for m in made], out, device, options.seed), made[0]["id"]
    with writing(out):
        save_png(demo_figure([demo_row(out, id, m, scores) for m in INPUTS], id), out / "compare.png", dpi=100)
    put_json({"seed": options.seed, "results": scores}, options.json)
    if options.json != "-":
        show(f"{demo_table(scores)}\n{demo_text(out, id)}")
