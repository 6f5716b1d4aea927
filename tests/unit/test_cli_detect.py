"""`mmccd detect` and `mmccd evaluate`."""

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy_cases import tree, write_case
from toy_detection import DETECT, refused

from mmccd.cli.app import main
from mmccd.cli.detect import pick_detector
from mmccd.detector import Threshold
from mmccd.registry import METHODS, packaged_methods, packaged_name
from mmccd.weights.hub import packaged

pytestmark = pytest.mark.usefixtures("quick_reports")


@pytest.mark.parametrize(
    ("options", "say"),
    [
        (["--weights", "nonsense"], "threshold-flair"),
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--input", "pd"], "'pd'"),
        (["--device", "gpu"], "'gpu'"),
        (["--weights", "threshold-t2", "--input", "flair"], "made for t2"),
        (["--seed", "x"], "whole number"),
        (["--weights", "me/nosuch"], "no folder me/nosuch; if it is on the Hugging Face hub, write hf:me/nosuch"),
    ],
)
def test_wrong_options_of_detect(run, tmp_path, options, say, monkeypatch):
    import huggingface_hub

    def fails(name, **kw):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    case = write_case(tmp_path, "a")
    before = tree(tmp_path)
    refused(run("detect", case, "--out", tmp_path / "out", *options), say)
    assert tree(tmp_path) == before


def test_interrupted_detect_says_how_to_go_on(run, tmp_path, monkeypatch):
    import mmccd.detection.detect

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.detection.detect, "detect_many", pressed)
    code, out, err = run(*DETECT, write_case(tmp_path, "a"), "--out", tmp_path / "out")
    assert code == 130
    assert not out
    assert err == "mmccd: stopped; finished cases are kept, go on with --skip-existing\n"


def test_detect_and_evaluate(run, tmp_path):
    for i in range(2):
        write_case(tmp_path / "cases", f"c{i}", ("flair", "t2"), seed=i)
    code, out, err = run(*DETECT, tmp_path / "cases", "--out", tmp_path / "out", "--json", tmp_path / "d.json")
    assert code == 0
    assert not err
    assert "2 of 2 cases" in out
    assert json.loads((tmp_path / "d.json").read_text()) == json.loads((tmp_path / "out/detect.json").read_text())
    code, out, err = run("evaluate", tmp_path / "out", tmp_path / "cases", "--json")
    assert code == 0
    assert not err
    assert json.loads(out)["scores"]["summary"]["dice"]["mean"] > 0.8
    code, out, err = run(
        "evaluate", tmp_path / "out", tmp_path / "cases", "--protocol", "volume", "--json", tmp_path / "e.json"
    )
    assert code == 0
    assert "everything positive" in out
    assert "HD95 (mm)" in out
    assert "false lesions a slice" in out
    result = json.loads((tmp_path / "e.json").read_text())
    assert result["protocol"] == "volume"
    assert result["scores"]["summary"]["assd"]["n"] == 2
    assert 0 <= result["scores"]["subjects"][0]["hd95"] < 99
    refused(run("evaluate", tmp_path / "out", tmp_path / "cases", "--protocol", "x"), "'x'")


def test_default_weights_fit_the_input(run, tmp_path):
    case = write_case(tmp_path, "a", ("t2",))
    code, out, _ = run("detect", case, "--out", tmp_path / "out", "--input", "t2", "--json")
    assert code == 0
    assert json.loads(out)["weights"] == "ensemble"
    assert json.loads(out)["input"] == "t2"
    assert pick_detector()[1] == pick_detector(input="t1")[1] == "ensemble"
    assert pick_detector("threshold", "t1")[1] == "threshold-t1"
    assert pick_detector("threshold-t1")[0].config.input == "t1"
    assert {f"threshold-{m}" for m in ("flair", "t1", "t1ce", "t2")} <= set(packaged())


@pytest.mark.parametrize("method", ["cycle", "masked", "mmccd"])
def test_pairs_by_their_short_name(method):
    assert set(METHODS[method].packaged) == {"flair", "t1", "t2"}
    assert {packaged_name(method, m) for m in METHODS[method].packaged} <= set(packaged())
    for input, target in METHODS[method].packaged.items():
        detector, name = pick_detector(method, input)
        assert name == f"{method}-{input}-{target}"
        assert (detector.config.input, detector.config.target) == (input, target)


def test_a_network_by_its_short_name(run, tmp_path):
    "It needs no other modality than the input, and its map is on the scan's own grid."
    case, name = write_case(tmp_path, "a", ("t2",)), f"masked-t2-{METHODS['masked'].packaged['t2']}"
    line = ["detect", case, "--out", tmp_path / "out", "--weights", "masked", "--input", "t2", "--device", "cpu"]
    code, out, err = run(*line, "--json")
    result = json.loads(out)
    assert code == 0
    assert not err
    assert (result["weights"], result["input"], result["detector"]) == (name, "t2", "MaskedUNet")
    shape = nib.load(case / "a_t2.nii.gz").shape
    assert nib.load(tmp_path / "out/a/a_anomaly.nii.gz").shape == shape


@pytest.mark.parametrize("terminal", [True, False])
def test_a_slow_detector_shows_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch, terminal):
    import mmccd.detection.detect

    seen = []
    monkeypatch.setattr(
        mmccd.detection.detect,
        "detect_many",
        lambda cases, detector, *a, **k: seen.append(detector.show_progress) or {"cases": [], "input": "flair"},
    )
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    main(
        [
            "detect",
            str(write_case(tmp_path, "a")),
            "--out",
            str(tmp_path / "out"),
            "--weights",
            "mmccd",
            "--device",
            "cpu",
        ]
    )
    assert seen == [terminal]


def test_networks_that_are_not_there(run, tmp_path):
    case = write_case(tmp_path, "a", ("flair", "t1ce", "t2"))
    before = tree(tmp_path)
    for method in set(packaged_methods()) - {"threshold", "ensemble"}:
        refused(
            run("detect", case, "--out", tmp_path / "out", "--weights", method, "--input", "t1ce"),
            f"no {method} for t1ce comes with mmccd: choose --input flair",
        )
    refused(run("detect", case / "a_t1ce.nii.gz", "--out", tmp_path / "out", "--weights", "cycle"), "no cycle for t1ce")
    refused(
        run("detect", case, "--out", tmp_path / "out", "--weights", "mmccd-t1ce-t2"),
        "unknown weights 'mmccd-t1ce-t2'",
        "mmccd-t1-t2",
        "cycle-t1-t2",
    )
    refused(
        run("detect", case, "--out", tmp_path / "out", "--weights", "cycle-t2-flair", "--input", "flair"),
        "made for t2, not flair",
    )
    assert tree(tmp_path) == before


def test_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert packaged_name("threshold", "t1ce") == "threshold-t1ce"
    assert packaged_name("ensemble", "t1ce") == "ensemble"
    assert packaged_name("cycle-t1-t2", "t1ce") == "cycle-t1-t2"
    assert [pick_detector(k)[1] for k in ("cycle", "masked", "mmccd")] == [
        "cycle-flair-t1",
        "masked-flair-t1",
        "mmccd-flair-t1",
    ]
    alone = [k for k in packaged_methods() if not METHODS[k].paired and k != "ensemble"]
    assert alone == ["threshold", "equalised", "ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex", "itermask"]
    assert [pick_detector(k)[1] for k in alone] == [f"{k}-flair" for k in alone]
    Path("cycle").mkdir()
    assert packaged_name("cycle", "t1") == "cycle-t1-flair"  # an empty folder is no detector
    Threshold(input="t2").save_pretrained("cycle")
    Threshold(input="t2").save_pretrained(".")
    assert pick_detector("cycle")[0].config.input == "t2"
    assert pick_detector()[1] == "ensemble"


def test_a_single_file_says_what_it_is(run, tmp_path):
    "Without --input, files that agree on a modality decide; a name that says nothing is refused."
    case = write_case(tmp_path, "a", ("flair", "t1"))
    t1, b, scan, out = (
        tmp_path / "P2_t1_brain.nii.gz",
        tmp_path / "b_T1.nii.gz",
        tmp_path / "scan.nii.gz",
        tmp_path / "out",
    )
    for p in (t1, b, scan):
        p.write_bytes((case / "a_t1.nii.gz").read_bytes())
    code, text, err = run(*DETECT, t1, b, "--out", out)
    assert code == 0
    assert "P2: " in text
    assert "threshold-t1 on t1" in text
    assert json.loads((out / "detect.json").read_text())["input"] == "t1"
    code, text, err = run(*DETECT, t1, case, "--out", tmp_path / "out2")  # they differ, so it is FLAIR
    assert code == 2
    assert "threshold-flair on flair" in text
    assert "give --input t1" in err
    refused(run(*DETECT, scan, "--out", tmp_path / "out3"), "its name tells no modality; say which with --input")
    refused(run("detect", t1, "--out", tmp_path / "out3", "--weights", "threshold-flair"), "not flair; give --input t1")
    assert not (tmp_path / "out3").exists()
    assert run(*DETECT, scan, "--out", tmp_path / "out3", "--input", "FLAIR")[0] == 0
    assert run("detect", b, "--out", tmp_path / "out4", "--weights", "threshold")[0] == 0


def test_another_detector_in_the_same_folder(run, tmp_path):
    case = write_case(tmp_path, "a", ("flair", "t2"))
    assert run(*DETECT, case, "--out", tmp_path / "out")[0] == 0
    before = tree(tmp_path)
    refused(
        run(*DETECT, case, "--out", tmp_path / "out", "--input", "t2"),
        "threshold-flair on flair, seed 0",
        "--overwrite",
    )
    assert tree(tmp_path) == before
    assert run(*DETECT, case, "--out", tmp_path / "out", "--input", "t2", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out/detect.json").read_text())["input"] == "t2"


def test_bids_and_flat_folders(run, tmp_path):
    for i, folder in ((1, "bids/sub-01"), (2, "bids/sub-02")):
        write_case(tmp_path / folder, "anat", seed=i)
    for p in tmp_path.glob("bids/*/anat/*"):
        p.rename(
            p.with_name(p.name.replace("anat_flair", f"{p.parts[-3]}_FLAIR").replace("anat_seg", f"{p.parts[-3]}_seg"))
        )
    code, out, _err = run(*DETECT, tmp_path / "bids", "--out", tmp_path / "out")
    assert code == 0
    assert "sub-01: " in out
    assert "sub-02: " in out
    assert run("evaluate", tmp_path / "out", tmp_path / "bids")[0] == 0
    (flat := tmp_path / "flat").mkdir()
    for p in tmp_path.glob("bids/*/anat/*FLAIR*"):
        (flat / p.name).write_bytes(p.read_bytes())
    refused(run(*DETECT, flat, "--out", tmp_path / "out2"), "several patients", f"{flat}/*_FLAIR.nii.gz")
    assert run(*DETECT, *flat.glob("*_FLAIR.nii.gz"), "--out", tmp_path / "out2")[0] == 0


def test_evaluate_with_the_wrong_truth(run, tmp_path):
    case = write_case(tmp_path, "a")
    assert run(*DETECT, case, "--out", tmp_path / "out")[0] == 0
    refused(
        run("evaluate", tmp_path / "out", tmp_path / "nosuch"),
        f"Cannot read {tmp_path / 'nosuch'}: there is no such folder",
    )
    refused(run("evaluate", tmp_path / "out", write_case(tmp_path, "z")), "such as a", "such as z")
    refused(run("evaluate", tmp_path / "out", case, "--only", "b*"), "'b*'")
    code, out, _err = run("evaluate", tmp_path / "out", case, "--only", "a", "--json")
    assert code == 0
    assert json.loads(out)["only"] == "a"
    (case / "a_seg.nii.gz").unlink()
    refused(run("evaluate", tmp_path / "out", case), "no segmentation")  # nothing scored: not even an empty line


def test_damaged_weights(run, tmp_path):
    detector = Threshold(input="t2")
    detector.save_pretrained(tmp_path / "run")
    (tmp_path / "run/config.json").write_text("{not json")
    refused(
        run("detect", write_case(tmp_path, "a", ("t2",)), "--out", tmp_path / "out", "--weights", tmp_path / "run"),
        "config.json: it is damaged, or no JSON; copy the weights again",
    )


def test_own_weights(run, tmp_path):
    detector = Threshold(input="t2")
    detector.calibration = {"threshold": 1.5, "fpr": 0.02, "data": "mine"}
    detector.save_pretrained(tmp_path / "run")
    code, out, _ = run(
        "detect", write_case(tmp_path, "a", ("t2",)), "--out", tmp_path / "out", "--weights", tmp_path / "run", "--json"
    )
    assert code == 0
    assert json.loads(out)["calibration"]["data"] == "mine"
    assert json.loads(out)["input"] == "t2"
    Threshold(input="t2").save_pretrained(tmp_path / "raw")
    refused(run("detect", tmp_path / "a", "--out", tmp_path / "out2", "--weights", tmp_path / "raw"), "calibrate")
    assert not (tmp_path / "out2").exists()


def test_single_file_and_skip_existing(run, tmp_path):
    case = write_case(tmp_path, "a")
    assert run(*DETECT, case / "a_flair.nii.gz", "--out", tmp_path / "out")[0] == 0
    code, out, _err = run(*DETECT, case / "a_flair.nii.gz", "--out", tmp_path / "out", "--skip-existing")
    assert code == 0
    assert "(kept)" in out
    (tmp_path / "scan.nii.gz").write_bytes((case / "a_flair.nii.gz").read_bytes())
    assert run(*DETECT, tmp_path / "scan.nii.gz", "--input", "flair", "--out", tmp_path / "out2")[0] == 0


def test_only_the_cases_asked_for_are_reported(run, tmp_path):
    for i in range(2):
        write_case(tmp_path, f"c{i}")
    run(*DETECT, tmp_path / "c0", "--out", tmp_path / "out")
    code, out, _err = run(*DETECT, tmp_path / "c1", "--out", tmp_path / "out")
    assert code == 0
    assert "c0" not in out
    assert "1 of 1 case in" in out
    assert "c1: " in out


def test_evaluate_scores_the_others_and_says_2(run, tmp_path):
    for i in range(3):
        write_case(tmp_path / "cases", f"c{i}", seed=i)
    assert run(*DETECT, tmp_path / "cases", "--out", tmp_path / "out")[0] == 0
    (tmp_path / "cases/c1/c1_seg.nii.gz").unlink()
    code, out, err = run("evaluate", tmp_path / "out", tmp_path / "cases")
    assert code == 2
    assert "2 subjects" in out
    assert err.count("\n") == 1
    assert "c1_seg.nii.gz" in err


def test_detect_with_post_processing(run, tmp_path):
    case = write_case(tmp_path, "a")
    code, out, err = run(*DETECT, case, "--out", tmp_path / "plain")
    assert code == 0
    assert not err
    assert "map after" not in out
    code, text, err = run(
        *DETECT, case, "--out", tmp_path / "out", "--median", "3", "--erode", "1.5", "--smallest", "0.01"
    )
    assert code == 0
    assert "map after: median of 3 voxels, without 1.5 mm of rim, pieces from 0.01 ml" in text
    assert err.startswith("mmccd: the threshold was calibrated on maps with no post-processing")
    assert err.count("\n") == 1
    assert "--healthy" in err
    result = json.loads((tmp_path / "out/detect.json").read_text())
    assert result["post"] == {"median": 3, "erode": 1.5, "smallest": 0.01}
    a, b = (np.asarray(nib.load(tmp_path / d / "a/a_anomaly.nii.gz").dataobj) for d in ("plain", "out"))
    assert not np.array_equal(a, b)
    assert ((b == 0) & (a > 0)).any()
    refused(run(*DETECT, case, "--out", tmp_path / "out"), "post-processing", "after median of 3 voxels", "--overwrite")
    assert run(*DETECT, case, "--out", tmp_path / "out", "--overwrite")[0] == 0
    code, text, err = run(*DETECT, case, "--out", tmp_path / "small", "--smallest", "0.01")
    assert code == 0
    assert not err
    assert "pieces from 0.01 ml" in text


def test_detect_calibrated_on_healthy_cases(run, tmp_path):
    case = write_case(tmp_path, "a")
    for i in range(2):
        write_case(tmp_path / "well", f"h{i}", seed=5 + i, lesion=False)
    code, out, err = run(
        *DETECT, case, "--out", tmp_path / "out", "--median", "3", "--healthy", tmp_path / "well", "--json"
    )
    result = json.loads(out)
    assert code == 0
    few = "the threshold rests on 2 healthy subjects only, and may be far off for others: better take 3 or more"
    assert err == f"mmccd: {few}\n"
    assert result["calibration"]["notes"] == [few]
    assert result["calibration"]["cases"] == ["h0", "h1"]
    assert result["calibration"]["post"]["median"] == 3
    assert result["cases"][0]["threshold"] == result["calibration"]["threshold"] != pick_detector()[0].threshold
    refused(
        run(*DETECT, case, "--out", tmp_path / "out", "--median", "3", "--healthy", tmp_path / "well/h0"),
        "already holds results",
        "threshold",
    )
    code, out, err = run(
        *DETECT,
        case,
        "--out",
        tmp_path / "two",
        "--healthy",
        tmp_path / "well/h0",
        "--healthy",
        tmp_path / "well/h1",
        "--json",
    )
    assert code == 0
    assert json.loads(out)["calibration"]["cases"] == ["h0", "h1"]
    refused(
        run(*DETECT, case, "--out", tmp_path / "three", "--healthy", case), "Cannot calibrate on a: it has a lesion"
    )
    refused(run(*DETECT, case, "--out", tmp_path / "three", "--healthy", tmp_path / "nowhere"), "nowhere")
    assert not (tmp_path / "three").exists()


@pytest.mark.parametrize(
    ("options", "say"),
    [
        (["--median", "4"], "odd number of voxels from 1 to 15, got 4"),
        (["--median", "-3"], "got -3"),
        (["--median", "x"], "whole number"),
        (["--median", "2.5"], "whole number"),
        (["--erode", "-1"], "erosion in mm must be a number of 0 or more, got -1"),
        (["--erode", "nan"], "got nan"),
        (["--smallest", "-0.5"], "got -0.5"),
        (["--smallest", "inf"], "got inf"),
        (["--erode", "far"], "it must be a number"),
        (["--median", "99"], "got 99"),
    ],
)
def test_wrong_post_processing(run, tmp_path, options, say):
    case = write_case(tmp_path, "a")
    before = tree(tmp_path)
    refused(run("detect", case, "--out", tmp_path / "out", *options), say)
    assert tree(tmp_path) == before


def test_an_erosion_of_everything(run, tmp_path):
    code, _out, err = run(*DETECT, write_case(tmp_path, "a"), "--out", tmp_path / "out", "--erode", "500")
    assert code == 2
    assert "Cannot process the map of a: an erosion of 500 mm leaves nothing of this brain; choose less." in err
    assert not (tmp_path / "out").exists()


def test_what_is_odd_about_a_case_is_said_once_and_kept(run, cases, tmp_path, monkeypatch):
    from mmccd.cases.case import Case

    load = Case.load

    def noting(path, modalities=None):
        case = load(path, modalities)
        case.notes += ["it lies upside down"] * (case.id == "c1")
        return case

    monkeypatch.setattr(Case, "load", noting)
    code, _out, err = run(*DETECT, cases, "--out", tmp_path / "out")
    assert code == 0
    assert err == "mmccd: c1: it lies upside down\n"
    records = json.loads((tmp_path / "out/detect.json").read_text())["cases"]
    assert [r.get("notes") for r in records] == [None, ["it lies upside down"], None]


def test_results_in_a_bucket(run, cases, tmp_path):
    url = f"memory://{tmp_path.name}"
    code, out, err = run(*DETECT, cases, "--out", url)
    assert (code, err) == (0, "")
    assert f"3 of 3 cases in {url}, threshold-flair" in out
    assert run(*DETECT, cases, "--out", url, "--skip-existing")[1].count("(kept)") == 3
    code, out, err = run("evaluate", url, cases)
    assert (code, err) == (0, "")
    assert "Dice" in out
    for option in ("--strip", "--viewer"):
        refused(run(*DETECT, cases, "--out", url, option), f"{option} writes into a folder, and {url} is none")
