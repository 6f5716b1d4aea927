"""`mmccd demo`: its picture, its table and the lines it says to type next."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from toy_cases import write_case

from mmccd.cases.case import Case
from mmccd.cli import demo
from mmccd.cli.app import main
from mmccd.cli.demo import detector_title
from mmccd.cli.detect import pick_detector
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
from mmccd.registry import METHODS, packaged_name
from mmccd.slices import resize, resize_labels, to_slices


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    "A demo, and what it printed."
    from contextlib import redirect_stdout
    from io import StringIO

    folder, text = tmp_path_factory.mktemp("demo") / "demo", StringIO()
    with redirect_stdout(text):
        assert main(["demo", "--out", str(folder), "--device", "cpu", "--json", str(folder.parent / "demo.json")]) == 0
    return folder, text.getvalue(), json.loads((folder.parent / "demo.json").read_text())


DEMO = [packaged_name(kind, m) for m in ("flair", "t2", "t1") for kind in ("threshold", "cycle", "mmccd")]


def test_demo_shows_all_side_by_side(shown):
    folder, out, found = shown
    assert sorted(p.name for p in folder.iterdir()) == sorted(["cases", "compare.png", *DEMO])
    assert list(found["results"]) == DEMO
    assert found["seed"] == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == [*map(detector_title, DEMO), "everything positive"]
    assert lines[2][0] == "threshold on FLAIR"
    assert [line[0] for line in lines[3:5]] == ["cycle on FLAIR over T1", "MMCCD on FLAIR over T1"]
    for line, result in zip(lines[2:], found["results"].values()):
        assert line[1] == f"{result['scores']['summary']['dice']['mean']:.2f}"
        assert line[-1] == f"{result['healthy'][0]['fpr']:.3f}"
    floor = found["results"]["cycle-t1-flair"]["floor"]
    assert lines[-1][1] == f"{floor['summary']['dice']['mean']:.2f}"
    assert lines[-1][-1] == "1.000"
    for words in ("proves nothing", "data/results/mmccd_phantom.json", "Look at", "mmccd detect", "mmccd evaluate"):
        assert words in out


def test_demo_keeps_detectors_apart(shown):
    folder, _out, found = shown
    for name in DEMO:
        run = json.loads((folder / name / "detect.json").read_text())
        assert run["weights"] == name
        assert len(run["cases"]) == 2
        assert {c["status"] for c in run["cases"]} == {"done"}
        assert all((folder / name / f).stat().st_size > 100 for c in run["cases"] for f in c["files"].values())
        assert (
            run["calibration"]["threshold"] == found["results"][name]["scores"]["threshold"]
        )  # calibrated, not fitted to the patient


def test_demo_says_what_is_there(shown):
    folder, out, _ = shown
    paths = [
        Path(word)
        for line in out.splitlines()
        if line.startswith(("Look at", "NIfTI", "  ")) and "mmccd " not in line
        for word in line.split()
        if str(folder) in word
    ]
    assert len(paths) == 4
    assert all(p.exists() for p in paths)
    from PIL import Image

    with Image.open(folder / "compare.png") as im:
        assert im.width >= 1200
        assert np.asarray(im.convert("L")).std() > 40


def test_demo_picture_has_fixed_scales(shown):
    "Each map from 0 to twice its threshold, whatever is in it."

    folder, _, found = shown
    glioma = next(p.name for p in (folder / "cases").glob("*glioma*"))
    assert sum(demo.DEMO.values(), []) == DEMO
    rows = [demo.demo_row(folder, glioma, m, found["results"]) for m in demo.DEMO]
    for m, row in zip(demo.DEMO, rows):
        assert len(row) == 7
        assert [p.get("vmax") for p in row[1::2]] == [
            2 * found["results"][packaged_name(k, m)]["scores"]["threshold"] for k in ("threshold", "cycle", "mmccd")
        ]
        assert [p["title"] for p in row[:-1:2]] == [
            m.upper(),
            *(f"Dice {found['results'][n]['scores']['summary']['dice']['mean']:.2f}" for n in demo.DEMO[m][:2]),
        ]
        assert [p["title"].split()[0] for p in row[1::2]] == ["threshold", "cycle", "MMCCD"]
        assert all(p["vmin"] == 0 for p in row[1::2])
        assert all((p["truth"] == row[0]["truth"]).all() for p in row[1::2])
        assert row[0]["truth"].any()
    sheet = demo.demo_figure(rows, glioma)
    scales, bars = (
        [ax.images[0].get_clim() for ax in sheet.axes[:21]],
        [ax for ax in sheet.axes if ax.get_label() == "<colorbar>"],
    )
    for i, row in enumerate(rows):
        assert [scales[7 * i + j] for j in (0, 1, 3, 5)] == [(-1, 1), *((0, row[j]["vmax"]) for j in (1, 3, 5))]
    assert [b.get_yticks()[1] for b in bars] == [found["results"][n]["scores"]["threshold"] for n in DEMO]


def test_demo_again_and_what_to_type_next(shown, run, monkeypatch):
    import mmccd.detection.detect
    from mmccd import cli
    from mmccd.viz import Sheet

    monkeypatch.setattr(
        mmccd.detection.detect, "report_figure", lambda found: Sheet(1, 1)
    )  # most of the time is saved by this
    monkeypatch.setattr(cli, "DEMO", {"flair": demo.DEMO["flair"][:2]})  # and this
    folder, out, _ = shown
    before = (folder / DEMO[1] / "detect.json").read_text()
    assert run("demo", "--out", folder, "--seed", 1)[0] == 0  # it is the demo's own folder
    assert json.loads((folder / DEMO[1] / "detect.json").read_text())["seed"] == 1 != json.loads(before)["seed"]
    for line in [
        s.removeprefix("Next:").split()[1:] for s in out.splitlines() if "mmccd " in s and "YOUR_CASE" not in s
    ]:
        assert run(*line)[0] == 0, line


@pytest.mark.parametrize(
    ("modality", "name"), [("flair", "cycle-flair-t1"), ("t2", "cycle-t2-t1"), ("t1", "cycle-t1-flair")]
)
def test_cycle_is_short_for_the_one_that_copies_less(run, tmp_path, modality, name):
    "Of the glioma of chapter 09, which is no part of the evidence, less comes back over the chosen modality."
    p = make_phantom("glioma", 404, 0, range(78, 81))
    case, brain = Case.from_phantom(p, modalities=[modality]), to_slices(p.brain)
    a, b = np.polyfit(p.volumes[modality][p.brain], case.normalised(modality)[p.brain], 1)
    ill, well = (
        resize(to_slices(np.where(p.brain, a * v[modality] + b, -1).astype(np.float32)), 64)
        for v in (p.volumes, p.twin)
    )
    brain, lesion = (resize_labels(to_slices(m), 64) for m in (p.brain, p.labels > 0))

    def share(d):
        with torch.no_grad():
            out = [d.translate_back(d.translate(x, brain), brain)[lesion] for x in (ill, well)]
        return (((out[0] - out[1]) * (ill - well)[lesion]).sum() / ((ill - well)[lesion] ** 2).sum()).item()

    shares = {t: share(load_detector(f"cycle-{modality}-{t}")) for t in ("flair", "t1", "t2") if t != modality}
    assert METHODS["cycle"].packaged[modality] == min(shares, key=shares.get) == name.split("-")[2]
    case = write_case(tmp_path, "a", ("flair", "t1", "t2"))
    code, out, _ = run("detect", case, "--out", tmp_path / "out", "--weights", "cycle", "--input", modality, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["weights"], result["input"], result["detector"]) == (name, modality, "CyclicUNet")
    shape = nib.load(case / f"a_{modality}.nii.gz").shape
    assert (
        nib.load(tmp_path / "out/a/a_anomaly.nii.gz").shape == shape
    )  # made at 64 pixels, given on the scan's own grid
    assert pick_detector(name)[0].config == pick_detector("cycle", modality)[0].config
    file = tmp_path / f"P1_{modality}.nii.gz"
    file.write_bytes((case / f"a_{modality}.nii.gz").read_bytes())
    assert pick_detector("cycle", paths=[file])[1] == name
