"""Many cases: what fails is noted, what is there is kept, detectors do not mix, nothing is left half done."""

import json
import os

import pytest
from toy_cases import tree, write_case
from toy_detection import Noisy, ready

import mmccd.detection.detect as detect_module
from mmccd.detection.detect import detect_many
from mmccd.detection.evaluation import evaluate
from mmccd.detection.score_text import score_text
from mmccd.detector import fingerprint
from mmccd.files import hash_file
from mmccd.postprocess import PostProcess

pytestmark = pytest.mark.usefixtures("quick_reports")


def test_many(cases, tmp_path):
    detector = ready()
    result = detect_many(cases, detector, tmp_path / "out", weights="toy", seed=3)
    assert result == json.loads((tmp_path / "out/detect.json").read_text())
    assert result["detector"] == "Threshold"
    assert result["config"] == {"input": "flair", "sign": 1, "normalisation": "tukey"}
    assert result["calibration"]["threshold"] == 2
    assert result["fingerprint"] == fingerprint(detector)
    assert result["weights"] == "toy"
    assert result["seed"] == 3
    assert result["input"] == "flair"
    assert [c["id"] for c in result["cases"]] == ["c0", "c1", "c2"]
    assert {c["status"] for c in result["cases"]} == {"done"}
    for c in result["cases"]:
        assert set(c) == {"id", "status", "files", "threshold", "volume_ml", "seconds"}
        record = json.loads((tmp_path / "out" / c["id"] / f"{c['id']}_detect.json").read_text())
        assert record["case"] == c
        assert {k: record[k] for k in result if k != "cases"} == {k: v for k, v in result.items() if k != "cases"}
        files = {k: cases / c["id"] / f"{c['id']}_{k}.nii.gz" for k in ("flair", "seg")}
        assert record["inputs"] == {k: {"path": str(p), "sha256": hash_file(p)} for k, p in files.items()}
        assert record["sha256"] == {k: hash_file(tmp_path / "out" / f) for k, f in c["files"].items()}
        assert all((tmp_path / "out" / f).is_file() and f.startswith(c["id"]) for f in c["files"].values())
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert len(names) == 16
    assert not any(n.startswith(".") for n in names)


def test_same_seed_same_bytes(cases, tmp_path):
    for name in "ab":
        detect_many(cases, ready(Noisy(), 1.0), tmp_path / name, "flair", seed=5)
    a, b = ({n: x for n, x in tree(tmp_path / d).items() if not n.endswith(".json")} for d in "ab")  # without seconds
    assert a == b


def test_skip_existing(cases, tmp_path):
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    (out / "c1/c1_report.png").unlink()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")}

    def status(r):
        return [c["status"] for c in r["cases"]]

    assert status(detect_many(cases, ready(), out, skip_existing=True)) == ["skipped", "done", "skipped"]
    assert {p.parent.name for p, t in before.items() if p.stat().st_mtime_ns != t} == {"c1"}
    assert status(detect_many(cases, ready(), out, skip_existing=True)) == ["skipped"] * 3
    with pytest.raises(ValueError, match="another detector"):
        detect_many(cases, ready(threshold=2.5), out, skip_existing=True)
    assert status(detect_many(cases, ready(threshold=2.5), out, skip_existing=True, overwrite=True)) == ["done"] * 3
    assert status(detect_many(cases, ready(threshold=2.5), out)) == ["done"] * 3


def test_cases_of_earlier_runs_stay_and_detectors_do_not_mix(cases, tmp_path):
    out = tmp_path / "out"
    detect_many(cases / "c0", ready(), out)
    assert [c["id"] for c in detect_many(cases / "c1", ready(), out)["cases"]] == ["c0", "c1"]
    before = tree(out)
    for paths, change in (
        (cases / "c1", {}),
        (cases, {}),
        (cases, dict(seed=1)),
        (cases, dict(skip_existing=True)),
    ):  # also if all would be done anew
        with pytest.raises(ValueError, match=r"another detector.*such as c0; .*--overwrite"):
            detect_many(paths, ready(threshold=3.0 - bool(change.get("seed"))), out, **change)
    assert tree(out) == before


def test_overwrite_replaces_everything_of_the_other_detector(cases, tmp_path):
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    (out / "c0/notes.txt").write_text("mine")
    before = tree(out)
    (cases / "c2/c2_flair.nii.gz").write_text("broken")
    assert detect_many(cases / "c2", ready(threshold=3.0), out, overwrite=True)["cases"][0]["status"] == "failed"
    assert tree(out) == before  # nothing new, so nothing is lost
    result = detect_many([cases / "c1", cases / "c2"], ready(threshold=3.0), out, overwrite=True)
    assert [(c["id"], c["status"]) for c in result["cases"]] == [("c1", "done"), ("c2", "failed")]
    assert result["calibration"]["threshold"] == 3
    assert sorted(p.name for p in out.rglob("*")) == [
        "c0",
        "c1",
        "c1_anomaly.nii.gz",
        "c1_detect.json",
        "c1_report.html",
        "c1_report.png",
        "c1_segmentation.nii.gz",
        "detect.json",
        "notes.txt",
    ]


def test_overwrite_removes_nothing_outside(cases, tmp_path):
    detect_many(cases / "c0", ready(), out := tmp_path / "out")
    mine = tmp_path / "x_anomaly.nii.gz"
    mine.touch()
    run = json.loads((out / "detect.json").read_text())
    (out / "detect.json").write_text(
        json.dumps(run | {"cases": [{"id": i, "status": "done"} for i in ("../x", "..", str(tmp_path / "x"))]})
    )
    detect_many(cases / "c0", ready(threshold=3.0), out, overwrite=True)
    assert mine.exists()


def test_a_case_that_fails_now_is_no_longer_done(cases, tmp_path):
    "Even where nothing succeeds; `evaluate` must not score its old map."
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    (cases / "c0/c0_flair.nii.gz").write_text("broken")
    for _ in range(2):
        detect_many(cases / "c0", ready(), out)
        kept = json.loads((out / "detect.json").read_text())["cases"]
        assert [(c["id"], c["status"]) for c in kept] == [
            ("c0", "failed"),
            ("c1", "done"),
            ("c2", "done"),
        ]
        assert "not a NIfTI" in kept[0]["error"]
    write_case(tmp_path / "truth", "c0")
    os.rename(cases / "c1", tmp_path / "truth/c1")
    result = evaluate(out, tmp_path / "truth")
    assert [s["id"] for s in result["scores"]["subjects"]] == ["c1"]
    assert result["without_map"] == ["c0"]
    lone = tmp_path / "lone"
    detect_many(tmp_path / "truth/c0", ready(), lone)
    (tmp_path / "truth/c0/c0_flair.nii.gz").write_text("broken")
    detect_many(tmp_path / "truth/c0", ready(), lone)
    assert [c["status"] for c in json.loads((lone / "detect.json").read_text())["cases"]] == ["failed"]


@pytest.mark.parametrize(
    ("name", "input", "error"),
    [
        ("scan", None, "tells no modality; say which with --input"),
        ("scan", "flair", None),
        ("a_flair_brain", None, None),
        ("a_t1", None, "t1, not flair; give --input t1"),
        ("a_t1", "flair", "t1, not flair; give --input t1"),
    ],
)
def test_a_file_is_what_its_name_or_the_caller_says(cases, tmp_path, name, input, error):
    path = tmp_path / f"{name}.nii.gz"
    path.write_bytes((cases / "c0/c0_flair.nii.gz").read_bytes())
    [record] = detect_many(path, ready(), tmp_path / "out", input)["cases"]
    assert (error in record["error"]) if error else record["status"] == "done", record


@pytest.mark.parametrize(("case", "out"), [("c0", "."), ("c0", "c0"), (".", "."), ("c0/c0_flair.nii.gz", ".")])
def test_results_do_not_go_among_the_scans(cases, tmp_path, monkeypatch, case, out):
    monkeypatch.chdir(cases)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"among the scans of .*; choose another folder"):
        detect_many(case, ready(), out)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "what",
    ["nibabel.Nifti1Image.to_stream", "mmccd.viz.save_png", "tempfile.mkdtemp", "mmccd.detection.results.write_atomic"],
)
def test_full_disk_names_the_folder_of_the_user(cases, tmp_path, monkeypatch, what):
    def full(*args, **kw):
        raise OSError(28, "No space left on device", "/deep/.part-1/x")

    monkeypatch.setattr(what, full)
    out, words = (
        tmp_path / "out",
        f"Cannot write into {tmp_path / 'out'}: No space left on device; free some space or choose another folder.",
    )
    if "atomic" in what:
        with pytest.raises(ValueError, match="Cannot write into") as caught:
            detect_many(cases / "c0", ready(), out)
        assert str(caught.value) == words
    else:
        assert detect_many(cases / "c0", ready(), out)["cases"][0]["error"] == f"c0: {words}"
        assert not out.exists()


def test_undecodable_output_folder(cases, tmp_path):
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="characters that cannot be read; rename it"):
        detect_many(cases, ready(), tmp_path / os.fsdecode(b"caf\xe9"))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("broken", ["{", "[]", "\x00"])
def test_damaged_detect_json(cases, tmp_path, broken):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/detect.json").write_text(broken)
    with pytest.raises(ValueError, match=r"detect\.json"):
        detect_many(cases, ready(), tmp_path / "out")
    with pytest.raises(ValueError, match=r"detect\.json"):
        evaluate(tmp_path / "out", cases)


def test_bug_in_one_case_does_not_stop_the_others(cases, tmp_path, monkeypatch):
    real = detect_module.detect_case

    def buggy(case, *args, **kwargs):
        if case.id == "c1":
            raise IndexError("list index\nout of range")
        return real(case, *args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_case", buggy)
    result = detect_many(cases, ready(), tmp_path / "out")
    assert [c["status"] for c in result["cases"]] == ["done", "failed", "done"]
    assert result["cases"][1]["error"] == "c1: Unexpected IndexError: list index out of range"
    scores = evaluate(tmp_path / "out", cases)  # the survivors' mean says that it is one
    assert scores["without_map"] == ["c1"]
    assert "Not in these numbers, since there is no map: c1." in score_text(scores)
    with pytest.raises(IndexError):
        detect_many(cases, ready(), tmp_path / "out", stop=True)


def test_interrupted(cases, tmp_path, monkeypatch):
    real, seen = detect_module.detect_case, []

    def interrupted(case, *args, **kwargs):
        seen.append(case.id)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(case, *args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect_many(cases, ready(), tmp_path / "out")
    kept = json.loads((tmp_path / "out/detect.json").read_text())
    assert [c["id"] for c in kept["cases"]] == ["c0"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "c0",
        "detect.json",
    ]
    monkeypatch.setattr(detect_module, "detect_case", real)
    again = detect_many(cases, ready(), tmp_path / "out", skip_existing=True)
    assert [c["status"] for c in again["cases"]] == ["skipped", "done", "done"]


def test_unwritable(cases, tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("needs a user whom permissions bind")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="Cannot write"):
        detect_many(cases, ready(), tmp_path / "locked/out")


def test_post_processing_is_recorded_and_does_not_mix(cases, tmp_path):
    out, post = tmp_path / "out", PostProcess(median=3, smallest=0.05)
    run = detect_many(cases, ready(), out, post=post)
    assert (
        run["post"]
        == {"median": 3, "erode": 0.0, "smallest": 0.05}
        == json.loads((out / "detect.json").read_text())["post"]
    )
    before = tree(out)
    for other in (PostProcess(), PostProcess(median=3), PostProcess(5, 0, 0.05)):
        with pytest.raises(
            ValueError,
            match=r"post-processing .*after median of 3 voxels, pieces from 0.05 ml\), such as c0; .*--overwrite",
        ):
            detect_many(cases, ready(), out, post=other)
    assert tree(out) == before
    assert [c["status"] for c in detect_many(cases, ready(), out, post=post, skip_existing=True)["cases"]] == [
        "skipped"
    ] * 3
    assert detect_many(cases, ready(), out, overwrite=True)["post"] == {"median": 0, "erode": 0.0, "smallest": 0.0}


def test_a_detect_json_from_before_means_no_post_processing(cases, tmp_path):
    out = tmp_path / "out"
    run = detect_many(cases, ready(), out)
    del run["post"]
    (out / "detect.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match="post-processing"):
        detect_many(cases, ready(), out, post=PostProcess(median=3))
    assert [c["status"] for c in detect_many(cases, ready(), out, skip_existing=True)["cases"]] == ["skipped"] * 3


def test_an_erosion_that_leaves_nothing_is_an_error_of_the_case(cases, tmp_path):
    result = detect_many(cases, ready(), tmp_path / "out", post=PostProcess(erode=500))
    assert all(
        c["status"] == "failed"
        and c["error"]
        == f"Cannot process the map of {c['id']}: an erosion of 500 mm leaves nothing of this brain; choose less."
        for c in result["cases"]
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["batchsize", "generator", "sure"])
def test_a_keyword_that_it_does_not_know(cases, tmp_path, word):
    "Refused at once; once upon a time each case failed by it."
    with pytest.raises(TypeError, match=word):
        detect_many(cases, ready(), tmp_path / "out", **{word: 1})
    assert not (tmp_path / "out").exists()


def test_batch_size_and_stop(cases, tmp_path):
    detect_many(cases / "c0", ready(), tmp_path / "a", batch_size=1)
    detect_many(cases / "c0", ready(), tmp_path / "b")
    a, b = ((tmp_path / d / "c0/c0_anomaly.nii.gz").read_bytes() for d in "ab")
    assert a == b
    (cases / "c0/c0_flair.nii.gz").write_text("broken")
    with pytest.raises(ValueError, match="not a NIfTI"):
        detect_many(cases, ready(), tmp_path / "c", stop=True)


def test_no_cases_at_all(tmp_path):
    assert detect_many([], ready(), tmp_path / "out")["cases"] == []
    assert not (tmp_path / "out").exists()


def test_public_names():
    import mmccd.detection as room

    for name in room.__all__:
        assert callable(getattr(room, name)), name
    assert room.detect_many is detect_many
    assert room.evaluate is evaluate
    with pytest.raises(AttributeError, match="'nonsense'"):
        room.nonsense  # noqa: B018
