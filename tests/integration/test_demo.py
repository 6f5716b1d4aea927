"""`mmccd demo`: its picture, its table and the lines it says to type next."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from mmccd.cli import demo
from mmccd.cli.app import main
from mmccd.cli.demo import detector_title
from mmccd.detection import report
from mmccd.registry import packaged_name
from mmccd.viz import Sheet


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    "A demo, and what it printed."
    from contextlib import redirect_stdout
    from io import StringIO

    folder, text = tmp_path_factory.mktemp("demo") / "demo", StringIO()
    with redirect_stdout(text), pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SLICES", range(76, 78))
        patch.setattr(report, "report_figure", lambda found: Sheet(1, 1))  # tests of detection draw them
        assert main(["demo", "--out", str(folder), "--device", "cpu", "--json", str(folder.parent / "demo.json")]) == 0
    return folder, text.getvalue(), json.loads((folder.parent / "demo.json").read_text())


KINDS, INPUTS = ("threshold", "cycle", "mmccd"), ("flair", "t2", "t1")
DEMO = [packaged_name(kind, m) for m in INPUTS for kind in KINDS]
TITLES = [detector_title(kind, m) for m in INPUTS for kind in KINDS]


def test_demo_shows_all_side_by_side(shown):
    folder, out, found = shown
    assert sorted(p.name for p in folder.iterdir()) == sorted(["cases", "compare.png", *DEMO])
    assert list(found["results"]) == DEMO
    assert found["seed"] == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == [*TITLES, "everything positive"]
    assert lines[2][0] == "threshold on FLAIR"
    assert [line[0] for line in lines[3:5]] == ["Cyclic U-Net on FLAIR via T1", "MMCCD on FLAIR via T1"]
    for line, result in zip(lines[2:], found["results"].values()):
        assert line[1] == f"{result['scores']['summary']['dice']['mean']:.2f}"
        assert line[-1] == f"{result['healthy'][0]['fpr']:.3f}"
    floor = found["results"]["cycle-t1-flair"]["floor"]
    assert lines[-1][1] == f"{floor['summary']['dice']['mean']:.2f}"
    assert lines[-1][-1] == "1.000"
    for words in ("proves nothing", "weights/mmccd/README.md", "Look at", "mmccd detect", "mmccd evaluate"):
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
    rows = [demo.demo_row(folder, glioma, m, found["results"]) for m in INPUTS]
    for m, row in zip(INPUTS, rows):
        assert len(row) == 7
        names = [packaged_name(k, m) for k in KINDS]
        assert [p.get("vmax") for p in row[1::2]] == [2 * found["results"][n]["scores"]["threshold"] for n in names]
        assert [p["title"] for p in row[:-1:2]] == [
            m.upper(),
            *(f"Dice {found['results'][n]['scores']['summary']['dice']['mean']:.2f}" for n in names[:2]),
        ]
        assert [p["title"].split()[0] for p in row[1::2]] == ["threshold", "Cyclic", "MMCCD"]
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


@pytest.mark.usefixtures("quick_reports")
def test_demo_again_and_what_to_type_next(shown, run, monkeypatch):
    "Again with another seed, into the same folder; then, word for word, what the first one says to type."
    monkeypatch.setattr(demo, "INPUTS", ("flair",))
    monkeypatch.setattr(demo, "SHOWN", ("threshold", "cycle"))
    monkeypatch.setattr(demo, "SLICES", range(76, 78))
    monkeypatch.setattr(demo, "demo_text", lambda out, id: "")  # speaks of MMCCD
    folder, out, _ = shown
    before = json.loads((folder / DEMO[1] / "detect.json").read_text())["seed"]
    assert run("demo", "--out", folder, "--seed", 1)[0] == 0
    assert json.loads((folder / DEMO[1] / "detect.json").read_text())["seed"] == 1 != before
    lines = [s.removeprefix("Next:") for s in out.splitlines() if "mmccd " in s and "YOUR_CASE" not in s]
    assert len(lines) == 2
    for line in lines:
        assert run(*shlex.split(line)[1:])[0] == 0, line
