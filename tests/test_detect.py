import json
import os
from dataclasses import dataclass, replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from detector_laws import Tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from toy_cases import AFFINE, tree, volumes, write_case

import mmccd.detect as detect_module
from mmccd.cases.case import Case
from mmccd.cases.grid import protocol_slices, volume_ml
from mmccd.cases.names import find_cases
from mmccd.detection import detect, evaluate
from mmccd.detection.calibration import recalibrate, stored_postprocessing, threshold_note
from mmccd.detection.detect import detect_case, detect_many
from mmccd.detection.evaluation import evaluate
from mmccd.detection.maps import anomaly_volume
from mmccd.detection.report import representative_slices
from mmccd.detection.score_text import score_text
from mmccd.detector import Detector, EverythingPositive, Threshold, ThresholdConfig, fingerprint
from mmccd.errors import format_error
from mmccd.files import output_folder
from mmccd.postprocess import PostProcess
from mmccd.tables import align_table


def ready(detector=None, threshold=2.0):
    detector = detector or Threshold(input="flair")
    detector.calibration = {"threshold": threshold, "fpr": 0.01, "data": "toy"}
    return detector


@pytest.fixture
def case(tmp_path):
    return Case.from_folder(write_case(tmp_path, "a", ("flair", "t2")), ["flair"])


def test_map_and_segmentation(case):
    found = detect_case(case, ready())
    assert found.anomaly.dtype == np.float32
    assert found.anomaly.shape == case.brain.shape
    assert (found.anomaly >= 0).all()
    assert not found.anomaly[~case.brain].any()
    assert np.array_equal(found.segmentation, found.anomaly > 2)
    overlap = 2 * (found.segmentation & case.lesion).sum() / (found.segmentation.sum() + case.lesion.sum())
    assert overlap > 0.9  # the toy lesion is that easy
    assert found.volume_ml == pytest.approx(found.segmentation.sum() * 2 / 1000)


@pytest.mark.parametrize("size", [1, 3, 99])
def test_batch_size_does_not_matter_even_with_noise(case, size):
    kept = anomaly_volume(case, Tiny().eval(), "flair", seed=3)
    np.testing.assert_allclose(
        anomaly_volume(case, Tiny().eval(), "flair", seed=3, batch_size=size), kept, rtol=1e-4, atol=1e-4
    )
    assert not np.allclose(anomaly_volume(case, Tiny().eval(), "flair", seed=4), kept)


@dataclass(frozen=True)
class SizedConfig(ThresholdConfig):
    size: int = 14


class Sized(Threshold):
    "A threshold that looks at pictures of `size` pixels."

    Config, seen = SizedConfig, set()

    def score(self, x, brain, generator=None):
        self.seen.add(tuple(x.shape[2:]))
        assert x.shape == brain.shape
        assert brain.dtype == torch.bool
        return super().score(x, brain)


@pytest.mark.parametrize("size", [14, 28, 40])
def test_a_detector_sees_the_size_it_was_trained_at(case, size):
    Sized.seen.clear()
    a, plain = anomaly_volume(case, Sized(size=size), "flair"), anomaly_volume(case, Threshold(), "flair")
    assert Sized.seen == {(size, size)}
    assert a.shape == plain.shape
    assert a.dtype == np.float32
    assert (a >= 0).all()
    assert not a[~case.brain].any()
    if size == 28:
        np.testing.assert_allclose(a, plain, atol=1e-5)  # the larger side as it is: padding comes and goes
    else:
        assert not np.allclose(a, plain, atol=1e-2)
        assert a[case.lesion].mean() > 3 * a[case.brain & ~case.lesion].mean()


def test_a_detector_gets_slices_on_its_own_ruler(case):
    maps = {
        m: anomaly_volume(case, Threshold(normalisation=m), "flair") for m in ("tukey", "median_iqr", "percentiles")
    }
    for m, a in maps.items():
        expected = torch.nn.functional.softplus(3 * case.slices("flair", method=m)).numpy()[:, 0].transpose(2, 1, 0)
        np.testing.assert_allclose(a[case.brain], expected[case.brain], rtol=1e-5)
    assert not np.allclose(maps["tukey"], maps["percentiles"], atol=0.1)
    with pytest.raises(ValueError, match="'minmax'"):
        Threshold(normalisation="minmax")


def test_only_slices_with_brain_are_asked_and_never_too_many(case):
    class Counts(Threshold):
        seen = []

        def score(self, x, brain, generator=None):
            self.seen.append(len(x))
            assert brain.flatten(1).any(1).all()
            return super().score(x, brain)

    case.brain[:, :, :3] = False
    anomaly_volume(case, Counts(), "flair", batch_size=2)
    assert max(Counts.seen) == 2
    assert sum(Counts.seen) == case.brain.any((0, 1)).sum()


def orientations():
    "Six of the 48 ways to store the same brain, as functions of an image."
    turns = [
        [[0, 1], [1, 1], [2, 1]],
        [[0, -1], [1, 1], [2, 1]],
        [[2, 1], [0, -1], [1, 1]],
        [[1, -1], [2, -1], [0, -1]],
        [[1, 1], [0, 1], [2, -1]],
        [[0, 1], [2, -1], [1, 1]],
    ]
    return [lambda im, t=t: im.as_reoriented(np.array(t)) for t in turns]


@pytest.mark.parametrize("turn", orientations())
def test_any_orientation_gives_the_same_answer_on_its_own_grid(tmp_path, turn):
    image = nib.Nifti1Image(volumes()[0], AFFINE)
    maps = []
    for name, im in (("straight", image), ("turned", turn(image))):
        nib.save(im, tmp_path / f"{name}_flair.nii.gz")
        files = detect_case(Case.from_files({"flair": tmp_path / f"{name}_flair.nii.gz"}), ready()).save(tmp_path)
        for kind, dtype in (("anomaly", np.float32), ("segmentation", np.uint8)):
            written = nib.load(tmp_path / files[kind])
            assert written.shape == im.shape
            assert np.allclose(written.affine, im.affine)
            assert written.get_data_dtype() == dtype
        maps.append(nib.as_closest_canonical(nib.load(tmp_path / files["anomaly"])).get_fdata())
    assert np.array_equal(*maps)
    assert maps[0].any()


def test_report(case, tmp_path):
    found = detect_case(case, ready())
    found.save(tmp_path)
    with Image.open(tmp_path / "a/a_report.png") as im:
        assert im.width > 800
        assert im.height > 300
    fig = found.report()
    title = fig.get_suptitle()
    for words in ("a:", "Threshold on flair", "threshold 2", "ml", "not a medical device"):
        assert words in title
    scales = {
        (round(im.norm.vmin, 3), round(im.norm.vmax, 3))
        for ax in fig.axes
        for im in ax.images
        if im.get_cmap().name == "inferno"
    }
    assert scales == {(0, 4)}  # twice the threshold, whatever the map holds
    other = detect_case(case, ready())
    other.anomaly *= 10
    assert {im.norm.vmax for ax in other.report().axes for im in ax.images if im.get_cmap().name == "inferno"} == {4}


@pytest.mark.parametrize(
    "change",
    [
        lambda f: setattr(f.case, "lesion", None),
        lambda f: f.segmentation.fill(False),
        lambda f: (f.anomaly.fill(0), f.segmentation.fill(False)),
        lambda f: setattr(f, "threshold", 0.0),
    ],
)
def test_report_of_odd_results(case, change):
    found = detect_case(case, ready())
    change(found)
    assert found.report().axes


def test_report_shows_what_was_missed(case):
    "Nothing is found, so the slices are those of the lesion; the scale is never the case's own."
    lesion = case.lesion.any((0, 1)).nonzero()[0]
    case.lesion[:, :, lesion[1:]] = False  # one slice is left
    found = detect_case(case, ready(threshold=50.0))
    fig = found.report()
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == [f"slice {lesion[0]}"]
    for h, top in ((50.0, 100), (0.0, 1)):
        found.threshold = h
        assert {im.norm.vmax for ax in found.report().axes for im in ax.images if im.get_cmap().name == "inferno"} == {
            top
        }


def test_report_of_the_floor(case):
    assert detect_case(case, EverythingPositive()).report().axes


def test_uncalibrated(case):
    with pytest.raises(ValueError, match="no threshold yet"):
        detect_case(case, Threshold())


def test_wrong_modality(case):
    with pytest.raises(ValueError, match="no t2"):
        detect_case(case, ready(), "t2")


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=0, max_size=160), st.integers(1, 8))
def test_telling_slices(amount, n):
    amount = np.array(amount, float)
    chosen = representative_slices(amount, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= n
    assert all(amount[k] > 0 for k in chosen)
    if amount.any():
        assert amount[chosen].max() == amount.max()


def test_volume():
    assert volume_ml(np.ones((10, 10, 10), bool), np.eye(4)) == 1
    turned = np.array([[0, 0, 3.0, 5], [2, 0, 0, 1], [0, -1, 0, 9], [0, 0, 0, 1]])
    assert volume_ml(np.ones((1, 1, 1), bool), turned) == pytest.approx(0.006)


# --------------------------------------------------------------------------------------------------------- saving
def test_save_is_all_or_nothing(case, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    found = detect_case(case, ready())
    monkeypatch.setattr(
        type(found), "report", lambda self: (_ for _ in ()).throw(MemoryError("no room for the picture"))
    )
    with pytest.raises(MemoryError):
        found.save(out)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("after", ["nothing", "file"])
def test_output_folder(tmp_path, after):
    out = tmp_path / "a" / "b"
    with output_folder(out) as made:
        if after == "file":
            (made / "x").write_text("kept")
    assert out.exists() == (after == "file")
    assert tmp_path.exists()


def test_output_folder_keeps_an_empty_one_that_was_there(tmp_path):
    with output_folder(tmp_path):
        pass
    assert tmp_path.exists()


def test_output_folder_is_a_file(tmp_path):
    (tmp_path / "f").write_text("mine")
    for out in (tmp_path / "f", tmp_path / "f" / "below"):
        with pytest.raises(ValueError, match="a file is where a folder should be"), output_folder(out):
            pass
    assert (tmp_path / "f").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------- many cases
@pytest.fixture
def cases(tmp_path):
    for i, lesion in enumerate((True, True, False)):
        write_case(tmp_path / "cases", f"c{i}", seed=i, lesion=lesion)
    return tmp_path / "cases"


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
        assert all((tmp_path / "out" / f).is_file() and f.startswith(c["id"]) for f in c["files"].values())
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert len(names) == 10
    assert not any(n.startswith(".") for n in names)


def test_same_seed_same_bytes(cases, tmp_path):
    for name in "ab":
        detect_many(cases, ready(Tiny(), 1.0), tmp_path / name, "flair", seed=5)
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    del a["detect.json"], b["detect.json"]  # holds the seconds it took
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
        with pytest.raises(ValueError, match="another detector.*such as c0; .*--overwrite"):
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
    with pytest.raises(ValueError, match="among the scans of .*; choose another folder"):
        detect_many(case, ready(), out)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "what", ["nibabel.save", "mmccd.viz.save_png", "tempfile.mkdtemp", "mmccd.detect.write_atomic"]
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
        with pytest.raises(ValueError) as caught:
            detect_many(cases / "c0", ready(), out)
        assert str(caught.value) == words
    else:
        assert detect_many(cases / "c0", ready(), out)["cases"][0]["error"] == words
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
    with pytest.raises(ValueError, match="detect.json"):
        detect_many(cases, ready(), tmp_path / "out")
    with pytest.raises(ValueError, match="detect.json"):
        evaluate(tmp_path / "out", cases)


def test_bug_in_one_case_does_not_stop_the_others(cases, tmp_path, monkeypatch):
    real = detect.detect_case

    def buggy(case, *args, **kwargs):
        if case.id == "c1":
            raise IndexError("list index\nout of range")
        return real(case, *args, **kwargs)

    monkeypatch.setattr(detect_module, "detect_case", buggy)
    result = detect_many(cases, ready(), tmp_path / "out")
    assert [c["status"] for c in result["cases"]] == ["done", "failed", "done"]
    assert result["cases"][1]["error"] == "Unexpected IndexError: list index out of range"
    scores = evaluate(tmp_path / "out", cases)  # the survivors' mean says that it is one
    assert scores["without_map"] == ["c1"]
    assert "Not in these numbers, since there is no map: c1." in score_text(scores)
    with pytest.raises(IndexError):
        detect_many(cases, ready(), tmp_path / "out", stop=True)


def test_interrupted(cases, tmp_path, monkeypatch):
    real, seen = detect.detect_case, []

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


def test_plain():
    assert format_error(ValueError("a\n b")) == "a b"
    assert format_error(KeyError("k")).startswith("Unexpected KeyError")
    assert format_error(MemoryError()) == "Unexpected MemoryError: no message"


# --------------------------------------------------------------------------------------------------------- evaluate
def test_evaluate(cases, tmp_path):
    detect_many(cases, ready(), tmp_path / "out")
    for protocol in ("slice", "volume"):
        result = evaluate(tmp_path / "out", cases, protocol)
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert result["protocol"] == protocol
        assert result["scores"]["threshold"] == 2
        assert not result["errors"]
        rows = result["scores"]["subjects"]
        assert [r["id"] for r in rows] == ["c0", "c1"]
        assert [h["id"] for h in result["healthy"]] == ["c2"]
        assert all(r["dice"] > 0.85 and r["ap"] > 0.99 for r in rows)
        assert 0 <= result["healthy"][0]["fpr"] < 0.1
        assert result["floor"]["summary"]["ap"]["mean"] == pytest.approx(np.mean([r["prevalence"] for r in rows]))
        assert result["scores"]["threshold_origin"] == "calibrated on healthy data"
        assert result["floor"]["threshold_origin"] == "none: everything is marked"
    text = score_text(result)
    assert "everything positive" in text
    assert "c2 has no lesion" in text
    assert "Volume protocol" in text


def test_volume_protocol_counts_every_brain_voxel(cases, tmp_path):
    detect_many(cases / "c0", ready(), tmp_path / "out")
    case, row = Case.from_folder(cases / "c0"), evaluate(tmp_path / "out", cases, "volume")["scores"]["subjects"][0]
    a = detect_case(case, ready()).anomaly
    s, t = (a > 2)[case.brain], case.lesion[case.brain]
    assert row["pixels"] == case.brain.sum()
    assert row["dice"] == pytest.approx(2 * (s & t).sum() / (s.sum() + t.sum()))
    assert row["fpr"] == pytest.approx((s & ~t).sum() / (~t).sum())


def test_one_case_has_no_interval(cases, tmp_path):
    detect_many(cases / "c0", ready(), tmp_path / "out")
    result = evaluate(tmp_path / "out", cases)
    text = score_text(result)
    assert result["scores"]["summary"]["ap"]["low"] is None
    assert "no interval" in text
    assert "1 subject;" in text
    assert "95 %" not in text


def test_only_healthy(cases, tmp_path):
    detect_many(cases / "c2", ready(), tmp_path / "out")
    result = evaluate(tmp_path / "out", cases)
    assert result["scores"] is None
    assert "called abnormal" in score_text(result)


def test_maps_of_another_tool(cases, tmp_path):
    "No detect.json: no calibrated threshold, the rest is scored; the orientation of the map may differ."
    for id in ("c0", "c2"):
        (tmp_path / "out" / id).mkdir(parents=True)
        image = nib.load(cases / id / f"{id}_flair.nii.gz")
        nib.save(nib.as_closest_canonical(image), tmp_path / "out" / id / f"{id}_anomaly.nii.gz")
    result = evaluate(tmp_path / "out", cases)
    assert result["scores"]["summary"]["dice"]["mean"] is None
    assert result["scores"]["summary"]["ap"]["mean"] > 0.99
    assert result["healthy"] == [{"id": "c2"} | dict.fromkeys(evaluate.ALARMS)]
    assert "No detect.json" in score_text(result)


# ---- shapes, in mm
def maps(cases, out, threshold=2.0):
    "What `evaluate` reads of a run; no reports, which take time."
    for id, path in find_cases(cases):
        case = Case.load(path, ["flair"])
        (out / id).mkdir(parents=True)
        case.save(detect_case(case, ready()).anomaly, out / id / f"{id}_anomaly.nii.gz")
    (out / "detect.json").write_text(
        json.dumps({"detector": "Threshold", "input": "flair", "calibration": {"threshold": threshold}})
    )


def by_transform(pred, truth, mm):
    "ASSD and HD95 by distance transforms."
    edge = [m ^ ndimage.binary_erosion(m) for m in (pred, truth)]
    a, b = (ndimage.distance_transform_edt(~edge[1 - i], sampling=mm)[edge[i]] for i in (0, 1))
    return np.hstack([a, b]).mean(), max(np.percentile(a, 95), np.percentile(b, 95))


def false_pieces(pred, truth):
    labels, n = ndimage.label(pred, np.ones((3,) * pred.ndim))
    return n - len(set(labels[truth]) - {0})


@pytest.mark.parametrize("voxel", [(1, 1, 2), (3, 0.5, 4)])
def test_shapes_are_measured_in_mm(tmp_path, voxel):
    affine = np.diag([-voxel[0], -voxel[1], voxel[2], 1.0])
    case = Case.from_folder(write_case(tmp_path / "cases", "c", affine=affine))
    maps(tmp_path / "cases", tmp_path / "out", 1.0)  # low: false alarms too
    marked = (detect_case(case, ready()).anomaly > 1) & case.brain
    k = case.lesion.sum((0, 1)).argmax()
    for protocol, at, unit in (("volume", ..., 1000), ("slice", (..., k), 100)):
        result = evaluate(tmp_path / "out", tmp_path / "cases", protocol)
        row, p, t, mm = result["scores"]["subjects"][0], marked[at], case.lesion[at], voxel[: case.lesion[at].ndim]
        assert (row["assd"], row["hd95"]) == pytest.approx(by_transform(p, t, mm))
        assert row["size"] == pytest.approx(t.sum() * np.prod(mm) / unit)
        wrong = false_pieces(p, t)
        slices = case.brain[at].any((0, 1)).sum()
        seen = sum(
            false_pieces(q, s)
            for q, s in ([(p, t)] if p.ndim == 2 else zip(np.moveaxis(p, 2, 0), np.moveaxis(t, 2, 0)))
        )
        assert row["false_lesions"] == wrong > 0
        assert row["false_a_slice"] == pytest.approx(seen / slices)
        assert row["lesion_recall"] == 1
        assert (row["jaccard"], row["recall"]) == pytest.approx(((p & t).sum() / (p | t).sum(), p[t].mean()))
        assert row["precision"] == pytest.approx(t[p].mean())
        floor = result["floor"]["subjects"][0]
        assert floor["assd"] == pytest.approx(by_transform(case.brain[at], t, mm)[0])
        assert floor["recall"] == 1
        assert floor["false_lesions"] == 0
        assert f"{row['hd95']:.1f}" in score_text(result)
        assert "HD95 (mm)" in score_text(result)


@pytest.mark.parametrize("protocol", ["slice", "volume"])
def test_shapes_do_not_depend_on_how_the_file_lies(tmp_path, protocol):
    folder, rows = write_case(tmp_path / "a", "c", affine=np.diag([-3, -0.5, 4, 1.0])), []
    (tmp_path / "b/c").mkdir(parents=True)
    for file in folder.iterdir():
        nib.save(nib.load(file).as_reoriented(np.array([[2, 1], [0, -1], [1, 1]])), tmp_path / "b/c" / file.name)
    for d in "ab":
        maps(tmp_path / d / "c", tmp_path / d / "out", 1.0)
        rows.append(evaluate(tmp_path / d / "out", tmp_path / d / "c", protocol)["scores"]["subjects"][0])
    assert nib.load(tmp_path / "b/c/c_seg.nii.gz").shape != nib.load(folder / "c_seg.nii.gz").shape
    assert rows[0] == pytest.approx(rows[1])


def test_one_slice_and_thick_voxels(tmp_path):
    "A file of one slice: both protocols look at the same picture, however thick it is."
    (tmp_path / "cases/c").mkdir(parents=True)
    for name, v in zip(("flair", "seg"), volumes()):
        nib.save(nib.Nifti1Image(v[..., 5:6], np.diag([-2, -1, 9, 1.0])), tmp_path / f"cases/c/c_{name}.nii.gz")
    maps(tmp_path / "cases", tmp_path / "out", 1.0)
    a, b = (evaluate(tmp_path / "out", tmp_path / "cases", p)["scores"]["subjects"][0] for p in ("slice", "volume"))
    assert b.pop("size") == pytest.approx(a.pop("size") * 0.9)  # ml, of cm2 that are 0.9 cm thick
    assert a == b
    assert 0 < a["assd"] < a["hd95"]


def test_nothing_found_is_as_far_as_can_be(cases, tmp_path):
    maps(cases, tmp_path / "out", 1e6)
    result = evaluate(tmp_path / "out", cases)
    for row in result["scores"]["subjects"]:
        assert (row["assd"], row["hd95"]) == pytest.approx([np.hypot(24, 28)] * 2)
        assert row["lesion_recall"] == row["recall"] == row["false_lesions"] == 0
    assert result["healthy"][0] | {"id": 0} == dict.fromkeys(evaluate.ALARMS, 0) | {"id": 0}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_false_alarms_of_the_healthy(tmp_path):
    for i in range(3):
        write_case(tmp_path / "cases", f"c{i}", seed=i, lesion=False, affine=np.diag([-2, -3, 4, 1.0]))
    maps(tmp_path / "cases", tmp_path / "out", 1.0)
    result = evaluate(tmp_path / "out", tmp_path / "cases")
    case, h = Case.from_folder(tmp_path / "cases/c1"), result["healthy"][1]
    wrong, slices = (detect_case(case, ready()).anomaly > 1) & case.brain, case.brain.any((0, 1)).sum()
    assert h["fpr"] == pytest.approx(wrong.sum() / case.brain.sum())
    assert h["volume_ml"] == pytest.approx(wrong.sum() * 0.024, abs=1e-3)
    assert h["cm2_a_slice"] == pytest.approx(wrong.sum() * 0.06 / slices, abs=1e-4)
    assert h["false_a_slice"] == pytest.approx(
        sum(ndimage.label(wrong[..., k], np.ones((3, 3)))[1] for k in range(wrong.shape[2])) / slices
    )  # as seen slice by slice
    assert (
        evaluate(tmp_path / "out", tmp_path / "cases", "volume")["healthy"] == result["healthy"]
    )  # the whole volume under either protocol
    for k in evaluate.ALARMS:
        assert result["healthy_summary"][k]["mean"] == pytest.approx(np.mean([r[k] for r in result["healthy"]]))
    assert result["scores"] is result["floor"] is None
    assert "mean of 3 without lesion" in score_text(result)
    assert all(v["n"] == 0 for v in result["by_size"].values())


def test_dice_by_size(tmp_path):
    "Told in words as soon as two bins hold three subjects."
    for i in range(3):
        (
            write_case(tmp_path / "cases", f"small{i}", seed=i),
            write_case(tmp_path / "cases", f"wide{i}", seed=i, affine=np.diag([-3, -3, 3, 1.0])),
        )
    maps(tmp_path / "cases", tmp_path / "out")
    result = evaluate(tmp_path / "out", tmp_path / "cases")
    rows, split = result["scores"]["subjects"], result["by_size"]
    assert [v["n"] for v in split.values()] == [3, 3, 0]
    assert split["under 2 cm2"]["mean"] == pytest.approx(
        np.mean([r["dice"] for r in rows if r["id"].startswith("small")])
    )
    assert "Dice by size of the lesion: under 2 cm2 0." in score_text(result)
    assert "10 cm2 and more" not in score_text(result)
    assert "Dice by size" not in score_text(evaluate(tmp_path / "out", tmp_path / "cases", only="*[01]"))
    assert list(evaluate(tmp_path / "out", tmp_path / "cases", "volume")["by_size"]) == [
        "under 5 ml",
        "5 to 50 ml",
        "50 ml and more",
    ]


def test_without_a_threshold_there_is_no_second_table(cases, tmp_path):
    maps(cases, out := tmp_path / "out")
    assert "ASSD" in score_text(evaluate(out, cases))
    (out / "detect.json").unlink()
    result = evaluate(out, cases)
    assert "ASSD" not in score_text(result)
    assert all(r["assd"] is r["jaccard"] is None and r["size"] > 0 for r in result["scores"]["subjects"])
    assert result["floor"]["summary"]["assd"]["mean"] > 0
    assert result["by_size"]["under 2 cm2"]["n"] == 0
    assert result["healthy_summary"]["fpr"] == {"n": 0, "mean": None, "low": None, "high": None}


# ---- what cannot be scored
def test_evaluate_names_what_it_cannot_score(cases, tmp_path):
    out = tmp_path / "out"
    detect_many(cases, ready(), out)
    (cases / "c0/c0_seg.nii.gz").unlink()
    image = nib.load(out / "c1/c1_anomaly.nii.gz")
    nib.save(
        nib.Nifti1Image(image.get_fdata(dtype=np.float32), np.diag([-1, -1, 2.5, 1])), out / "c1/c1_anomaly.nii.gz"
    )
    result = evaluate(out, cases)
    assert [e["id"] for e in result["errors"]] == ["c0", "c1"]
    assert len(result["healthy"]) == 1
    assert "no segmentation" in result["errors"][0]["error"]
    assert "c1_anomaly.nii.gz" in result["errors"][1]["error"]
    with pytest.raises(ValueError, match="no segmentation"):
        evaluate(out, cases, stop=True)
    fewer = evaluate(out, cases / "c2")["errors"]
    assert [e["id"] for e in fewer] == ["c0", "c1"]
    assert "no case of this name" in fewer[0]["error"]


def test_evaluate_with_the_wrong_truth(cases, tmp_path):
    detect_many(cases, ready(), out := tmp_path / "out")
    with pytest.raises(ValueError, match="such as c0.*such as z"):
        evaluate(out, write_case(tmp_path / "other", "z"))
    for truth in (tmp_path / "nosuch", [cases, tmp_path / "nosuch"]):
        with pytest.raises(ValueError, match="Cannot read .*nosuch: there is no such folder; "):
            evaluate(out, truth)


def test_evaluate_only_some(cases, tmp_path):
    detect_many([cases / "c0", cases / "c2"], ready(), out := tmp_path / "out")
    everything = evaluate(out, cases)
    assert everything["only"] == "*"
    assert everything["without_map"] == ["c1"]
    assert "Only cases" not in score_text(everything)
    lesion, healthy, both = (evaluate(out, cases, only=p) for p in ("c[01]", "*2", "c*"))
    assert lesion["scores"] == everything["scores"]
    assert lesion["healthy"] == []
    assert lesion["without_map"] == ["c1"]
    assert healthy["scores"] is None
    assert healthy["healthy"] == everything["healthy"]
    assert healthy["without_map"] == []
    assert both == everything | {"only": "c*"}
    assert "Only cases called *2." in score_text(healthy)
    with pytest.raises(ValueError, match="'x\\*' fits none of its cases, such as c0"):
        evaluate(out, cases, only="x*")


@pytest.mark.parametrize(
    ("make", "words"), [(lambda d: d / "nowhere", "no such folder"), (lambda d: d / "empty", "no anomaly maps")]
)
def test_evaluate_nothing(cases, tmp_path, make, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=words):
        evaluate(make(tmp_path), cases)
    with pytest.raises(ValueError, match="unknown protocol"):
        evaluate(tmp_path, cases, "patch")


def test_lesion_outside_the_protocol_slices():
    lesion = np.zeros((240, 240, 155), bool)
    lesion[100:110, 100:110, 20] = True
    brain = np.zeros_like(lesion)
    brain[60:180, 60:180] = True
    case = SimpleNamespace(lesion=lesion, brain=brain, affine=np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(ValueError, match="no lesion in the slices"):
        evaluate.score_case("a", lesion * 1.0, case, "slice", 0.5)
    assert evaluate.score_case("a", lesion * 1.0, case, "volume", 0.5)[0] == "lesion"


@pytest.mark.parametrize(
    ("shape", "start", "expected"),
    [
        ((240, 240, 155), 0, range(70, 90)),
        ((240, 240, 20), 70, range(20)),
        ((240, 240, 155), -2, range(72, 92)),
        ((240, 240, 40), 80, range(10)),
        ((240, 240, 30), 0, range(30)),
        ((182, 218, 182), 0, range(182)),
    ],
)
def test_protocol_slices(shape, start, expected):
    affine = np.diag([-1.0, -1, 1, 1])
    affine[1, 3], affine[2, 3] = 239, start
    assert protocol_slices(shape, affine) == expected


def test_align():
    assert align_table("x\n| a | bbb |\n| --- | --- |\n| cc | d |") == "x\n| a   | bbb |\n| --- | --- |\n| cc  | d   |"


def test_unwritable(cases, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="Cannot write"):
        detect_many(cases, ready(), tmp_path / "locked/out")


def test_everything_on_the_detectors_device(case):
    assert Detector.from_pretrained("threshold-flair").device == torch.device("cpu")
    assert torch.is_tensor(ready().to("meta")._here)
    assert ready().to("meta").device.type == "meta"


# ------------------------------------------------------------------------------------------------------- post-processing
POSTS = [PostProcess(median=3), PostProcess(erode=2), PostProcess(smallest=0.05), PostProcess(3, 1, 0.02)]


@pytest.mark.parametrize("post", POSTS)
def test_post_processing(case, tmp_path, post):
    plain_one, found = detect_case(case, ready()), detect_case(case, ready(), post=post)
    spacing = (1, 1, 2)  # of the toy's affine
    expected = post.map(plain_one.anomaly, case.brain, spacing)
    assert np.array_equal(found.segmentation, post.segment(expected, 2, spacing))
    assert np.array_equal(found.segmentation, found.anomaly > 2)  # in memory
    assert found.anomaly.dtype == np.float32
    assert (found.anomaly <= expected).all()
    assert found.post == post
    assert not np.array_equal(found.anomaly, plain_one.anomaly)
    assert found.volume_ml < plain_one.volume_ml
    files = found.save(tmp_path)
    a, s = (np.asarray(nib.load(tmp_path / files[k]).dataobj) for k in ("anomaly", "segmentation"))
    assert np.array_equal(a > 2, s > 0)
    assert s.any()
    assert str(post) in (found.report()._suptitle.get_text())
    assert "map after" not in plain_one.report()._suptitle.get_text()


def test_post_processing_off_changes_nothing(case):
    a, b = detect_case(case, ready()), detect_case(case, ready(), post=PostProcess())
    assert np.array_equal(a.anomaly, b.anomaly)
    assert np.array_equal(a.segmentation, b.segmentation)
    assert a.post == b.post == PostProcess()


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
        detect_many(cases, ready(), out, post=POSTS[0])
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


def test_evaluate_scores_what_was_segmented(cases, tmp_path):
    results = {}
    for post in (PostProcess(), PostProcess(smallest=0.05)):
        detect_many(cases, ready(threshold=1.2), tmp_path / str(post), post=post)
        results[bool(post)] = evaluate(tmp_path / str(post), cases, "volume")
    assert (
        results[True]["healthy"][0]["volume_ml"] < results[False]["healthy"][0]["volume_ml"] > 0
    )  # the pieces are gone here too
    row = results[True]["scores"]["subjects"][0]
    marked = nib.load(tmp_path / "pieces from 0.05 ml/c0/c0_segmentation.nii.gz")
    truth = Case.from_folder(cases / "c0")
    s = (np.asarray(nib.as_closest_canonical(marked).dataobj) > 0)[::-1, ::-1] & truth.brain
    assert row["dice"] == pytest.approx(2 * (s & truth.lesion).sum() / (s.sum() + truth.lesion.sum()))
    assert results[True]["post"]["smallest"] == 0.05
    assert "Maps after: pieces from 0.05 ml." in score_text(results[True])
    assert "Maps after" not in score_text(results[False])


def test_evaluate_warns_of_a_threshold_for_other_maps(cases, tmp_path):
    maps(cases, out := tmp_path / "out")
    run, median, pieces = (
        json.loads((out / "detect.json").read_text()),
        {"median": 3, "erode": 0.0, "smallest": 0.0},
        {"median": 0, "erode": 0.0, "smallest": 0.05},
    )

    def said(made, now):
        (out / "detect.json").write_text(json.dumps(run | {"calibration": made, "post": now}))
        result = evaluate(out, cases)
        assert result["calibration"] == made
        assert json.loads(json.dumps(result)) == result
        return [line for line in score_text(result).split("\n") if line.startswith("Beware")]

    old = {"threshold": 2.0}  # from before there was post-processing
    assert said(old, median) == [
        "Beware: the threshold was calibrated on maps after nothing, not after median of 3 voxels, so FPR and Dice are not at the promised rate."
    ]
    assert "after median of 3 voxels, not after nothing," in said(old | {"post": median}, {})[0]
    assert (
        said(old | {"post": median}, median | {"smallest": 0.05})
        == said(old, pieces)
        == said(old, {})
        == said(None, median)
        == []
    )  # pieces do not change the map


def test_recalibrate(cases, tmp_path):
    healthy = [write_case(tmp_path / "well", f"h{i}", seed=10 + i, lesion=False) for i in range(2)]
    for post in (PostProcess(), *POSTS):
        detector = recalibrate(Threshold(), tmp_path / "well", post=post, fpr=0.05)
        maps = [detect_case(Case.load(p), detector, post=replace(post, smallest=0.0)) for p in healthy]
        brain = sum(m.case.brain.sum() for m in maps)
        rate = sum(m.segmentation.sum() for m in maps) / brain
        reached = sum((m.anomaly >= detector.threshold).sum() for m in maps) / brain
        assert rate <= 0.05 < reached
        assert detector.calibration["fpr_reached"] == pytest.approx(rate)
        assert detector.calibration["cases"] == ["h0", "h1"]
        assert stored_postprocessing(detector.calibration) == post
        assert json.dumps(detector.calibration)
        assert threshold_note(detector, post) == ""
        assert threshold_note(detector, replace(post, smallest=9.0)) == ""
    assert (
        recalibrate(Threshold(), healthy, fpr=0.05).threshold
        > recalibrate(Threshold(), healthy, post=POSTS[0], fpr=0.05).threshold
    )
    with pytest.raises(ValueError, match="Cannot calibrate on c0: it has a lesion"):
        recalibrate(Threshold(), cases)
    with pytest.raises(ValueError, match="between 0 and 1, got 2"):
        recalibrate(Threshold(), healthy, fpr=2)


def test_a_threshold_for_other_maps_is_noticed():
    note = threshold_note(ready(), PostProcess(5, 2, 1))
    assert (
        "no post-processing and is used on maps with post-processing (median of 5 voxels, without 2 mm of rim)" in note
    )
    assert "\n" not in note
    detector = ready()
    detector.calibration["post"] = {"median": 5, "erode": 0.0, "smallest": 0.0}
    assert "with post-processing (median of 5 voxels) and is used on maps with no post-processing" in threshold_note(
        detector, PostProcess()
    )
    assert not threshold_note(ready(), PostProcess())
    assert not threshold_note(ready(), PostProcess(smallest=1))
    assert not threshold_note(Threshold(), PostProcess(3))
    assert (
        stored_postprocessing(None)
        == stored_postprocessing({})
        == stored_postprocessing({"post": 3})
        == stored_postprocessing({"post": {"median": 4}})
        == PostProcess()
    )
