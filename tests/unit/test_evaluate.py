"""Scores of a folder of results: in pixels, in millimetres and in lesions, and what cannot be scored."""

import json
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage
from toy_cases import volumes, write_case
from toy_detection import ready

from mmccd.cases.case import Case
from mmccd.cases.names import find_cases
from mmccd.detection.detect import detect_case, detect_many
from mmccd.detection.evaluation import ALARMS, evaluate, score_lesion
from mmccd.detection.score_text import score_text
from mmccd.postprocess import PostProcess

pytestmark = pytest.mark.usefixtures("quick_reports")


def maps(cases, out, threshold=2.0):
    "What `evaluate` reads of a run; no reports, which take time."
    for id, path in find_cases(cases):
        case = Case.load(path, ["flair"])
        (out / id).mkdir(parents=True)
        case.save(detect_case(case, ready()).anomaly, out / id / f"{id}_anomaly.nii.gz")
    (out / "detect.json").write_text(
        json.dumps({"detector": "Threshold", "input": "flair", "calibration": {"threshold": threshold}})
    )


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
    assert result["healthy"] == [{"id": "c2"} | dict.fromkeys(ALARMS)]
    assert "No detect.json" in score_text(result)


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
    assert result["healthy"][0] | {"id": 0} == dict.fromkeys(ALARMS, 0) | {"id": 0}
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
    for k in ALARMS:
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
    with pytest.raises(ValueError, match=r"such as c0.*such as z"):
        evaluate(out, write_case(tmp_path / "other", "z"))
    for truth in (tmp_path / "nosuch", [cases, tmp_path / "nosuch"]):
        with pytest.raises(ValueError, match=r"Cannot read .*nosuch: there is no such folder; "):
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
    affine = np.diag([-1.0, -1, 1, 1])
    affine[1, 3] = 239  # the BraTS grid, of which this is the lower part
    lesion = np.zeros((240, 240, 72), bool)
    lesion[100:110, 100:110, 20] = True
    brain = np.zeros_like(lesion)
    brain[98:112, 98:112] = True
    case = SimpleNamespace(lesion=lesion, brain=brain, affine=affine)
    with pytest.raises(ValueError, match="no lesion in the slices"):
        score_lesion("a", lesion * 1.0, case, "slice", 0.5)
    id, score, truth = score_lesion("a", lesion * 1.0, case, "volume", 0.5).pixels
    assert (id, len(score), truth.sum()) == ("a", brain.sum(), lesion.sum())


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
        "Beware: the threshold was calibrated on maps after nothing, not after median of 3 voxels, so FPR and Dice "
        "are not at the promised rate."
    ]
    assert "after median of 3 voxels, not after nothing," in said(old | {"post": median}, {})[0]
    assert (
        said(old | {"post": median}, median | {"smallest": 0.05})
        == said(old, pieces)
        == said(old, {})
        == said(None, median)
        == []
    )  # pieces do not change the map


def test_the_truth_itself_scores_1(cases, tmp_path):
    "In everything, through files and all."
    truth = Case.load(cases / "c0")
    (tmp_path / "out/c0").mkdir(parents=True)
    truth.save(truth.lesion.astype(np.float32), tmp_path / "out/c0/c0_anomaly.nii.gz")
    (tmp_path / "out/detect.json").write_text(json.dumps({"calibration": {"threshold": 0.5}}))
    for protocol in ("slice", "volume"):
        row = evaluate(tmp_path / "out", cases / "c0", protocol)["scores"]["subjects"][0]
        perfect = ("dice", "dice_oracle", "jaccard", "ap", "auroc", "lesion_recall")
        assert {k: row[k] for k in perfect} == dict.fromkeys(perfect, 1)
        assert row["assd"] == row["hd95"] == row["false_lesions"] == row["fpr"] == 0


def test_what_makes_a_score_doubtful_is_said(tmp_path):
    write_case(tmp_path / "cases", "p_bl", seed=1)
    case = write_case(tmp_path / "cases", "q", seed=2)
    seg = nib.load(case / "q_seg.nii.gz")
    nib.save(nib.Nifti1Image((1 - seg.get_fdata()).astype(np.uint8), seg.affine), case / "q_seg.nii.gz")
    maps(tmp_path / "cases", tmp_path / "out")
    assert [n.split(": ")[0] for n in evaluate(tmp_path / "out", tmp_path / "cases")["notes"][1:]] == ["q"]
    run = json.loads((tmp_path / "out/detect.json").read_text())
    run["calibration"]["cases"] = ["p_fu1", "r"]
    (tmp_path / "out/detect.json").write_text(json.dumps(run))
    no_record, same, lesion = evaluate(tmp_path / "out", tmp_path / "cases")["notes"]
    assert no_record.startswith("p_bl, q: no record")
    assert same.startswith("p_bl: the threshold was set on healthy scans of the same people")
    assert lesion.startswith("q: ")
    assert "outside the brain" in lesion
