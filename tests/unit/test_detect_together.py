"""Several runs into one folder, scans that change, and names that two patients share: nothing is lost in silence."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from toy_cases import tree, write_case
from toy_detection import DETECT, ready, refused

import mmccd.detection.detect as detect_module
from mmccd.detection.detect import detect_many
from mmccd.detection.evaluation import evaluate
from mmccd.detection.records import OtherResultsError
from mmccd.detection.results import ResultFolder
from mmccd.files import folder_lock, write_atomic

pytestmark = pytest.mark.usefixtures("quick_reports")


def listed(out):
    return {c["id"]: c["status"] for c in json.loads((out / "detect.json").read_text())["cases"]}


def change(path):
    "Another scan under the same name, of the same size on disk but for compression."
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.flip(np.asarray(image.dataobj), 0), image.affine), path)


@pytest.fixture
def meanwhile(monkeypatch):
    "Do something, once, while a case is being detected."
    real, todo = detect_module.detect_case, []

    def detect_case(*args, **kwargs):
        if todo:
            todo.pop()()
        return real(*args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_case", detect_case)
    return todo.append


def test_two_runs_at_once_forget_nothing_of_each_other(cases, tmp_path, meanwhile):
    out = tmp_path / "out"
    meanwhile(lambda: detect_many([cases / "c1", cases / "c2"], ready(), out))
    mine = detect_many(cases / "c0", ready(), out)
    assert [c["id"] for c in mine["cases"]] == ["c0", "c1", "c2"]
    assert listed(out) == dict.fromkeys(["c0", "c1", "c2"], "done")
    assert not evaluate(out, cases)["without_map"]


def test_an_array_of_runs_one_of_which_fails(cases, tmp_path, meanwhile):
    out = tmp_path / "out"
    (cases / "c2/c2_flair.nii.gz").write_text("broken")
    detect_many(cases / "c2", ready(), out)  # alone, and before anything succeeds: nothing is kept of it
    assert not out.exists()
    meanwhile(lambda: detect_many([cases / "c1", cases / "c2"], ready(), out))
    detect_many(cases / "c0", ready(), out)
    assert listed(out) == {"c0": "done", "c1": "done", "c2": "failed"}


def test_a_process_that_is_stopped_while_it_writes_is_not_waited_for(cases, tmp_path, monkeypatch):
    "Nor does what it writes later, from what it read before, make the others' cases disappear."
    import mmccd.detection.results as results

    monkeypatch.setattr(results, "PATIENCE", 0.05)
    out, real, todo = tmp_path / "out", write_atomic, [lambda: detect_many(cases / "c1", ready(), out)]

    def stopped(path, content):
        if todo and path.name == "detect.json":
            todo.pop()()
            assert listed(out) == {"c0": "done", "c1": "done"}
        return real(path, content)

    monkeypatch.setattr(results, "write_atomic", stopped)
    detect_many(cases / "c0", ready(), out)
    assert listed(out) == {"c0": "done", "c1": "done"}


def test_detect_json_that_is_lost_or_late_is_made_again(cases, tmp_path):
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    (out / "detect.json").unlink()
    assert [c["id"] for c in evaluate(out, cases)["scores"]["subjects"]] == ["c0", "c1"]
    detect_many(cases / "c0", ready(), out, skip_existing=True)
    assert listed(out) == dict.fromkeys(["c0", "c1", "c2"], "done")
    shutil.rmtree(out / "c1")  # the user's own doing
    detect_many(cases / "c0", ready(), out, skip_existing=True)
    assert set(listed(out)) == {"c0", "c2"}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"skip_existing": True}])
def test_two_inputs_at_once_never_mix(cases, tmp_path, meanwhile, options):
    out = tmp_path / "out"
    meanwhile(lambda: detect_many(cases / "c1", ready(threshold=3.0), out))
    with pytest.raises(OtherResultsError, match=r"another process has begun to write .* choose another folder"):
        detect_many(cases, ready(), out, **options)
    assert listed(out) == {"c1": "done"}
    assert sorted(p.name for p in out.iterdir()) == ["c1", "detect.json"]
    assert evaluate(out, cases)["scores"]["threshold"] == 3


def test_two_runs_that_both_overwrite(cases, tmp_path, meanwhile):
    out = tmp_path / "out"
    detect_many(cases, ready(threshold=4.0), out)
    meanwhile(lambda: detect_many(cases / "c1", ready(threshold=3.0), out, overwrite=True))
    with pytest.raises(OtherResultsError, match="another process"):
        detect_many(cases, ready(), out, overwrite=True)
    assert listed(out) == {"c1": "done"}


def test_a_scan_that_was_replaced(cases, tmp_path):
    "Not its size and not its date, its content counts."
    out, map = tmp_path / "out", tmp_path / "out/c0/c0_anomaly.nii.gz"
    detect_many(cases, ready(), out)
    before = map.read_bytes()
    (cases / "c0/c0_flair.nii.gz").touch()
    shutil.copytree(cases / "c0", tmp_path / "elsewhere/c0")
    for same in (cases, tmp_path / "elsewhere/c0"):  # moved
        assert {c["status"] for c in detect_many(same, ready(), out, skip_existing=True)["cases"]} <= {
            "skipped",
            "done",
        }
    assert map.read_bytes() == before
    change(cases / "c0/c0_flair.nii.gz")
    found = detect_many(cases, ready(), out, skip_existing=True)["cases"]
    assert [c["status"] for c in found] == ["done", "skipped", "skipped"]
    assert "has changed since" in found[0]["notes"][0]
    assert map.read_bytes() != before


def test_a_truth_that_was_replaced(cases, tmp_path):
    "The report shows it."
    detect_many(cases, ready(), out := tmp_path / "out")
    change(cases / "c1/c1_seg.nii.gz")
    assert evaluate(out, cases)["notes"] == ["c1: the segmentation is not the one that the report was made with."]
    found = detect_many(cases, ready(), out, skip_existing=True)["cases"]
    assert [c["status"] for c in found] == ["skipped", "done", "skipped"]
    assert not evaluate(out, cases)["notes"]


def test_a_scan_that_was_only_unpacked_is_no_other_scan(cases, tmp_path):
    detect_many(cases / "c0", ready(), tmp_path / "out")
    packed = cases / "c0/c0_flair.nii.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    [found] = detect_many(cases / "c0", ready(), tmp_path / "out", skip_existing=True)["cases"]
    assert found["status"] == "done"
    assert "has changed since" in found["notes"][0]


@pytest.mark.parametrize("options", [{}, {"skip_existing": True}])
def test_two_patients_of_one_name(cases, tmp_path, options):
    write_case(tmp_path / "other", "c0", seed=9)
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    before = tree(out)
    [found, *rest] = detect_many([tmp_path / "other/c0", cases / "c1"], ready(), out, **options)["cases"]
    assert found["status"] == "failed"
    assert f"another scan, {cases / 'c0/c0_flair.nii.gz'}; choose another folder, or give --overwrite" in found["error"]
    assert [c["status"] for c in rest] == ["skipped" if options else "done", "done"]
    after = tree(out)
    assert {n: v for n, v in after.items() if "c0" in n} == {n: v for n, v in before.items() if "c0" in n}
    assert listed(out) == dict.fromkeys(["c0", "c1", "c2"], "done")
    detect_many(tmp_path / "other/c0", ready(), out, overwrite=True, **options)
    assert tree(out / "c0") != before
    assert evaluate(out, tmp_path / "other")["scores"]["subjects"][0]["id"] == "c0"


def test_two_patients_of_one_name_at_once(cases, tmp_path, meanwhile):
    write_case(tmp_path / "other", "c0", seed=9)
    meanwhile(lambda: detect_many(cases / "c0", ready(), tmp_path / "out"))
    [found] = detect_many(tmp_path / "other/c0", ready(), tmp_path / "out")["cases"]
    assert "another process has put it there meanwhile" in found["error"]
    assert not evaluate(tmp_path / "out", cases)["notes"]


def test_a_scan_that_changes_while_it_is_read(cases, tmp_path, meanwhile):
    meanwhile(lambda: change(cases / "c0/c0_flair.nii.gz"))
    [found] = detect_many(cases / "c0", ready(), tmp_path / "out")["cases"]
    assert "it changed while it was read; run again" in found["error"]
    assert not (tmp_path / "out").exists()


def test_what_a_person_corrected_is_not_lost(cases, tmp_path):
    detect_many(cases, ready(), out := tmp_path / "out")
    change(out / "c0/c0_segmentation.nii.gz")
    mine = (out / "c0/c0_segmentation.nii.gz").read_bytes()
    for options in ({}, {"skip_existing": True}):
        [found, *_] = detect_many(cases, ready(), out, **options)["cases"]
        assert "c0_segmentation.nii.gz was changed after it was written" in found["error"]
        assert (out / "c0/c0_segmentation.nii.gz").read_bytes() == mine
    detect_many(cases, ready(), out, overwrite=True)
    assert (out / "c0/c0_segmentation.nii.gz").read_bytes() != mine


def test_maps_of_another_tool_are_not_lost(cases, tmp_path):
    map = tmp_path / "out/c0/c0_anomaly.nii.gz"
    map.parent.mkdir(parents=True)
    map.write_bytes((cases / "c0/c0_flair.nii.gz").read_bytes())
    before = map.read_bytes()
    found = detect_many(cases, ready(), tmp_path / "out")["cases"]
    assert [c["status"] for c in found] == ["failed", "done", "done"]
    assert "no record tells what made c0_anomaly.nii.gz there" in found[0]["error"]
    assert map.read_bytes() == before


def test_results_of_an_older_version_are_made_again_with_a_word(cases, tmp_path):
    detect_many(cases, ready(), out := tmp_path / "out")
    for record in out.glob("*/*_detect.json"):
        record.unlink()
    notes = evaluate(out, cases)["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("c0, c1, c2: no record tells what made the map")
    with pytest.raises(ValueError, match="already holds results of another detector"):
        detect_many(cases, ready(threshold=3.0), out)
    found = detect_many([cases / "c0", cases / "c1"], ready(), out, skip_existing=True)["cases"]
    assert [(c["id"], c["status"], "notes" in c) for c in found] == [
        ("c0", "done", True),
        ("c1", "done", True),
        ("c2", "done", False),
    ]
    assert evaluate(out, cases)["notes"][0].startswith("c2: no record")


def test_links_in_the_folder_of_results(cases, tmp_path):
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    out.mkdir()
    (out / "c0").symlink_to(mine)
    (out / "c1").write_text("mine")
    (out / "c2").mkdir()
    (out / "c2/c2_report.png").mkdir()
    found = detect_many(cases, ready(), out, overwrite=True)["cases"]
    for c, words in zip(found, ("it is a link", "it is a file", "c2_report.png: a folder is where a file should be")):
        assert words in c["error"]
    assert not list(mine.iterdir())
    assert sorted(p.name for p in out.iterdir()) == ["c0", "c1", "c2"]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "{}", '{"case": {"id": "c0", "status": 5}}', "\x00", ""])
def test_a_damaged_record_is_named_and_concerns_its_case_only(cases, tmp_path, text):
    detect_many(cases, ready(), out := tmp_path / "out")
    (out / "c0/c0_detect.json").write_text(text)
    scores = evaluate(out, cases)
    assert [s["id"] for s in scores["scores"]["subjects"]] == ["c1"]
    assert [e["id"] for e in scores["errors"]] == ["c0"]
    assert "c0_detect.json" in scores["errors"][0]["error"]
    found = detect_many(cases, ready(), out, skip_existing=True)["cases"]
    assert [c["status"] for c in found] == ["failed", "skipped", "skipped"]
    assert "c0_detect.json" in found[0]["error"]
    assert detect_many(cases, ready(), out, overwrite=True, skip_existing=True)["cases"][0]["status"] == "done"
    assert not evaluate(out, cases)["errors"]


def test_a_map_of_another_run_is_not_scored(cases, tmp_path):
    detect_many(cases, ready(), out := tmp_path / "out")
    detect_many(cases / "c1", ready(threshold=3.0), tmp_path / "other")
    shutil.rmtree(out / "c1")
    shutil.copytree(tmp_path / "other/c1", out / "c1")
    scores = evaluate(out, cases)
    assert [s["id"] for s in scores["scores"]["subjects"]] == ["c0"]
    assert "c1: its map was made by Threshold on flair" in scores["errors"][0]["error"]
    (out / "detect.json").unlink()
    with pytest.raises(ValueError, match="made by several detectors or with several settings"):
        evaluate(out, cases)


def test_a_map_that_is_there_is_scored_and_what_is_odd_about_it_is_said(cases, tmp_path, run):
    detect_many(cases, ready(), out := tmp_path / "out")
    change(cases / "c0/c0_flair.nii.gz")
    write_case(tmp_path / "cases", "c3", seed=3)
    (out / "c3").mkdir()
    (out / "c3/c3_anomaly.nii.gz").write_bytes((cases / "c3/c3_flair.nii.gz").read_bytes())
    (out / "c1/c1_anomaly.nii.gz").write_bytes((cases / "c1/c1_flair.nii.gz").read_bytes())
    code, text, err = run("evaluate", out, cases, "--json")
    result = json.loads(text)
    assert code == 0
    assert [s["id"] for s in result["scores"]["subjects"]] == ["c0", "c1", "c3"]
    assert err.splitlines() == [f"mmccd: {n}" for n in result["notes"]]
    assert [n.partition(",")[0] for n in result["notes"]] == [
        "c3: no record tells what made the map",
        "c1: the map was changed after detect had written it.",
        "c0: the file of the scan is not the one that the map was made of; detect it again.",
    ]


def test_maps_of_several_versions_are_said(cases, tmp_path, monkeypatch):
    detect_many(cases / "c0", ready(), out := tmp_path / "out")
    monkeypatch.setattr("mmccd.__version__", "9.9")
    detect_many([cases / "c1", cases / "c2"], ready(), out)
    assert "9.9" in evaluate(out, cases)["notes"][0]


def test_a_lock_that_is_a_link(cases, tmp_path, run):
    (out := tmp_path / "out").mkdir()
    (tmp_path / "mine").write_text("precious")
    (out / ".lock").symlink_to(tmp_path / "mine")
    refused(run(*DETECT, cases / "c0", "--out", out), ".lock: it is a link; remove it")
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_record_has_the_command(cases, tmp_path, run):
    for out, *more in (("a",), ("b", "--overwrite"), ("b", "--skip-existing"), ("c", "--json", tmp_path / "j.json")):
        assert run(*DETECT, cases / "c0", "--out", tmp_path / out, "--seed", 3, *more)[0] == 0
        record = json.loads((tmp_path / out / "c0/c0_detect.json").read_text())
        assert record["command"] == f"mmccd detect {cases / 'c0'} --out OUT --weights threshold --seed 3"
    assert record["mmccd"]
    assert record["weights"] == "threshold-flair"


def test_a_folder_that_is_locked_by_another_command(cases, tmp_path):
    (out := tmp_path / "out").mkdir()
    results = ResultFolder(out, {})
    with results.lock(), pytest.raises(ValueError, match="Another process is writing in"), folder_lock(out, "writing"):
        pass
