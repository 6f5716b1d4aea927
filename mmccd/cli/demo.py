""""""

from pathlib import Path
from typing import Annotated

import typer

from mmccd.cases.phantoms import make_subjects
from mmccd.cli.app import app
from mmccd.cli.options import Device, Json, Seed, check_json, put_json
from mmccd.registry import packaged_name
from mmccd.runtime import pick_device

DEMO = {
    m: [packaged_name(k, m) for k in ("threshold", "cycle", "mmccd")] for m in ("flair", "t2", "t1")
}  # by input: which detectors


def demo_run(
    paths,  # folders of the two subjects
    out,  # folder of the demo; it exists
    device: str,  # where networks run
    seed: int = 0,  # of the phantoms
) -> dict:  # what `evaluate` says, by name of the detector
    "The detectors of each modality, each in its folder."
    from tqdm import tqdm

    from mmccd.detection.detect import detect_many
    from mmccd.detection.evaluate import evaluate
    from mmccd.detector import load_detector

    found = dict.fromkeys(sum(DEMO.values(), []))
    for name in tqdm(found, "detect", unit="detector", disable=None):
        detect_many(
            paths, load_detector(name).to(device), out / name, weights=name, seed=seed, overwrite=True, stop=True
        )
        found[name] = evaluate(out / name, paths, stop=True)
    return found


def detector_title(
    name: str,  # of a packaged detector
) -> str:
    "What a detector does, for a table."
    kind, m, *over = name.split("-")
    return " ".join(
        [
            {"mmccd": "MMCCD", "masked": "masked U-Net"}.get(kind, kind),
            "on",
            m.upper(),
            *(f"over {o.upper()}" for o in over),
        ]
    )


def demo_table(
    found: dict,  # from `demo_run`
) -> str:  # several lines
    "All rows under one head."
    from mmccd.scoring import format_table
    from mmccd.tables import align_table

    floor = next(iter(found.values()))["floor"]
    head, _, *lines = format_table(
        {detector_title(n): r["scores"] for n, r in found.items()} | {"everything positive": floor}
    ).split("\n")
    last = ["FPR, healthy one", "---", *(f"{r['healthy'][0]['fpr']:.3f}" for r in found.values()), "1.000"]
    head = (
        head.replace(", mean [95 % bootstrap interval]", "")
        + "\nFPR: of what is healthy in that slice; FPR, healthy one: of the whole subject without lesion."
    )
    return head + "\n\n" + align_table("\n".join(f"{line} {v} |" for line, v in zip(lines, last)))


def demo_row(
    out,  # folder of the demo
    id: str,  # of the case with the lesion
    m: str,  # modality
    found: dict,  # from `demo_run`
) -> list[dict]:  # panels for `show_image`: the input, and map and segmentation of each detector
    "What the detectors see in one modality, in the slice with most lesion."
    from mmccd.detection.evaluate import read_result
    from mmccd.slices import to_slices
    from mmccd.viz import compare, crop_to

    row = []
    for name in DEMO[m]:
        anomaly, case = read_result(id, out / name, out / "cases" / id, m)
        k, scores = (case.lesion & case.brain).sum((0, 1)).argmax(), found[name]["scores"]
        box = crop_to(to_slices(case.brain, [k]))
        x, a, truth = (to_slices(v, [k])[0, 0][box] for v in (case.normalised(m), anomaly, case.lesion))
        h = scores["threshold"]
        row += [] if row else [dict(image=x, truth=truth, title=m.upper(), sides=True)]
        row += [
            dict(
                image=a,
                vmin=0,
                vmax=2 * h,
                cmap="inferno",
                truth=truth,
                title=detector_title(name).replace(f" on {m.upper()}", ""),
            ),
            dict(image=compare(x, a > h, truth), title=f"Dice {scores['summary']['dice']['mean']:.2f}"),
        ]
    return row


def demo_figure(
    rows,  # lists of panels, from `demo_row`
    id: str,  # of the case
):  # matplotlib figure
    "All of them side by side."
    from mmccd.viz import add_bar, add_legend, empty_grid, show_image

    sheet, grid = empty_grid(
        [[p["image"] for p in row] for row in rows],
        17,
        True,
        f"{id}: map and segmentation by the plain threshold, the cycle and MMCCD\none made-up patient; for research and teaching, not a medical device",
    )
    sheet.set_figheight(0.93 * sheet.get_figheight())  # the bars take from the width, the titles add to the height
    for row, axes in zip(rows, grid):
        for ax, panel in zip(axes, row):
            drawn, top = show_image(ax, **panel), panel.get("vmax")
            if top:
                add_bar(sheet, [drawn], [ax], where="left").set_ticks(
                    [0, top / 2, top], labels=["0", f"{top / 2:.3g}", f"{top:.3g}"]
                )
    return add_legend(sheet)


def demo_text(
    out,  # folder of the demo
    id: str,  # of the case with the lesion
) -> str:  # several lines
    "Where things are, and what to type next."
    cases, one = out / "cases", out / DEMO["flair"][-1] / id / id
    return f"""
One made-up patient proves nothing: tables of many are in the README; these weights on 150 made-up people: data/results/mmccd_phantom.json.

Look at  {out / "compare.png"}
         {one}_report.png (so for each detector and case)
NIfTI    {one}_anomaly.nii.gz and _segmentation.nii.gz, on the grid of
         {cases / id}

Next:    mmccd detect {cases} --out {out / "cycle-t1-t2"} --weights cycle-t1-t2
         mmccd evaluate {out / "cycle-t1-t2"} {cases}
         mmccd detect YOUR_CASE --out results --weights mmccd      (skull-stripped, a folder or a NIfTI file)"""


@app.command(epilog="Example: mmccd demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything; made where missing.")] = Path(
        "mmccd-demo"
    ),
    device: Device = "auto",  # where networks run
    seed: Seed = 0,  # of the phantoms
    json: Json = "",  # file, or - for standard output
):
    "Two phantom subjects; threshold, cycle and MMCCD side by side."
    check_json(json)
    place = pick_device(device)
    from mmccd.files import writing
    from mmccd.viz import save_png

    made = make_subjects(out / "cases", [("glioma", 3), ("healthy", 0)], seed, range(70, 78), overwrite=True)
    found, id = demo_run([m["folder"] for m in made], out, place, seed), made[0]["id"]
    with writing(out):
        save_png(demo_figure([demo_row(out, id, m, found) for m in DEMO], id), out / "compare.png", dpi=100)
    put_json({"seed": seed, "results": found}, json)
    if json != "-":
        print(demo_table(found), demo_text(out, id), sep="\n")
