import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from toy_cases import tree, write_case

import mmccd
from mmccd.cases.case import Case
from mmccd.cases.phantoms import Phantoms, make_subjects
from mmccd.cases.prepare import prepare
from mmccd.cli import demo
from mmccd.cli.app import arguments, main
from mmccd.cli.demo import detector_title
from mmccd.cli.detect import pick_detector
from mmccd.cli.options import put_json, slice_range
from mmccd.detector import Detector, Threshold, load_detector
from mmccd.masked_diffusion import load_frozen_decoder
from mmccd.phantom import make_phantom, phantom_id
from mmccd.registry import METHODS, new_detector, packaged_methods, packaged_name
from mmccd.runtime import pick_device
from mmccd.slices import resize, resize_labels, to_slices
from mmccd.training import progress
from mmccd.training.data import store_data
from mmccd.training.record import about_run
from mmccd.training_loop import make_config
from mmccd.weights.hub import packaged

COMMANDS = ["phantom", "prepare", "train", "detect", "evaluate", "demo", "explore"]


@pytest.fixture
def run(capsys):
    "Run a command line in this process: exit code, standard output, standard error."

    def go(*words):
        capsys.readouterr()
        code = main([str(w) for w in words])
        return code, *capsys.readouterr()

    return go


def refused(answer, *words):
    "Exit code 2, one sentence on standard error, nothing on standard output."
    code, out, err = answer
    assert code == 2 and not out and err.startswith("mmccd: ") and err.count("\n") == 1 and "Traceback" not in err, (
        answer
    )
    for w in words:
        assert str(w) in err, err


# ------------------------------------------------------------------------------------------------- help and version
def test_help_imports_nothing_heavy():
    heavy = ["torch", "nilearn", "matplotlib", "scipy", "sklearn", "nibabel", "numpy", "huggingface_hub"]
    lines = [["--help"], ["--version"], [], *([c, "--help"] for c in COMMANDS)]
    script = f"import sys\nfrom mmccd.cli import main\nfor line in {lines}: assert main(line) == 0\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stdout + done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help(run, command):
    code, out, err = run(command, "--help")
    assert f"Example: mmccd {command} " in " ".join(out.split())
    assert "How many of these" not in out
    assert code == 0
    assert not err
    assert "--seed" in out
    assert "--json" in out
    assert f"Usage: mmccd {command}" in out


def test_summaries_are_whole(run):
    for line in run("--help")[1].split("Commands:")[1].splitlines():
        assert "..." not in line
    for kind in ("glioma", "sclerosis", "infarct", "artefact", "healthy subjects"):
        assert kind in run("phantom", "--help")[1]
    assert "No effect" in run("evaluate", "--help")[1]


def test_version_and_no_words(run):
    assert run("--version") == (0, f"mmccd {mmccd.__version__}\n", "")
    code, out, err = run()
    assert code == 0
    assert not err
    assert all(c in out for c in COMMANDS)


def test_entry_point():
    "The installed command, as a process of its own."
    program = Path(sys.executable).with_name("mmccd")
    if not program.exists():
        pytest.skip("mmccd is not installed as a command")
    assert (
        subprocess.run([program, "--version"], capture_output=True, text=True).stdout == f"mmccd {mmccd.__version__}\n"
    )
    assert subprocess.run([program, "nonsense"], capture_output=True, text=True).returncode == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a", "--json"], ["a", "--json", "-"]),
        (["--json", "-"], ["--json", "-"]),
        (["--json", "--json", "x"], ["--json", "-", "--json", "x"]),
        (["--debug"], ["--help"]),
        (["a", "--debug", "b"], ["a", "b"]),
    ],
)
def test_arguments(words, expected):
    assert arguments(words) == (expected, "--debug" in words)


# ------------------------------------------------------------------------------------------------- wrong words
@pytest.mark.parametrize(
    ("words", "say"),
    [
        (["nonsense"], "nonsense"),
        (["detect"], "CASE"),
        (["detect", "x"], "--out"),
        (["evaluate", "x"], "TRUTH"),
        (["--nonsense"], "nonsense"),
        (["phantom"], "OUT"),
        (["phantom", "{}", "--glioma", "-1"], "--glioma"),
        (["phantom", "{}", "--glioma", "two"], "--glioma"),
        (["phantom", "{}"], "nothing to make"),
        (["phantom", "{}", "--healthy", "0", "--ms", "0"], "nothing to make"),
        (["phantom", "{}", "--tumour", "1"], "--tumour"),
        (["phantom", "{}", "--ms", "1", "--seed", "-1"], "--seed"),
        (["phantom", "{}", "--ms", "1", "--slices", "90:70"], "90:70"),
        (["phantom", "{}", "--ms", "1", "--slices", "0:155"], "0:155"),
    ],
)
def test_wrong_words(run, tmp_path, words, say):
    refused(run(*(w.format(tmp_path / "new") for w in words)), say)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "say"),
    [
        (["--weights", "nonsense"], "threshold-flair"),
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--input", "pd"], "'pd'"),
        (["--device", "gpu"], "'gpu'"),
        (["--weights", "threshold-t2", "--input", "flair"], "made for t2"),
        (["--seed", "x"], "whole number"),
        (["--weights", "me/nosuch"], "no folder 'me/nosuch' here, and "),
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


def test_device_that_is_not_there(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match=f"'{name}' is not available here: choose auto or cpu"):
            pick_device(name)
    assert pick_device("auto") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == "cuda"
    assert pick_device("cpu") == "cpu"


def test_debug_shows_the_traceback_and_says_2(run, tmp_path):
    code, out, err = run("phantom", tmp_path / "x", "--debug")
    assert code == 2
    assert not out
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("mmccd: nothing to make")


def test_a_bug_gets_a_sentence_too(run, monkeypatch, tmp_path):
    import mmccd.detect

    monkeypatch.setattr(mmccd.detect, "detect_many", lambda *a, **k: {}["oops"])
    refused(run("detect", write_case(tmp_path, "a"), "--out", tmp_path / "out"), "unexpected KeyError", "--debug")


# ------------------------------------------------------------------------------------------------- phantom
SMALL = ["--slices", "79:80"]


def test_phantom_twice_is_identical(run, tmp_path):
    line = ["--healthy", 1, "--glioma", 1, "--ms", 1, "--infarct", 1, "--artefact", 1, "--seed", 7, *SMALL]
    for d in "ab":
        assert run("phantom", tmp_path / d, *line)[0] == 0
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert a == b
    assert sum(n.endswith("seg.nii.gz") and "twin" not in n for n in a) == 5
    assert sum("healthy_twin/" in n for n in a) == 4 * 5  # four subjects have something, and so have a twin
    image = nib.load(next((tmp_path / "a").glob("*glioma*/*_flair.nii.gz")))
    assert image.shape == (240, 240, 2)
    assert image.affine[2, 3] == 79
    assert run("phantom", tmp_path / "c", "--ms", 1, "--seed", 8, *SMALL)[0] == 0
    assert not set(tree(tmp_path / "c")) & {n for n in a if "ms" in n}


def test_phantom_json_and_ids(run, tmp_path):
    code, out, _err = run("phantom", tmp_path / "a", "--infarct", 2, "--seed", 3, *SMALL, "--json")
    made = json.loads(out)
    assert code == 0
    assert [s["id"] for s in made["subjects"]] == [phantom_id("infarct", 3, i) for i in range(2)]
    assert all(Path(s["folder"]).is_dir() for s in made["subjects"])


def test_phantom_does_not_overwrite_unasked(run, tmp_path):
    assert run("phantom", tmp_path, "--ms", 1, *SMALL)[0] == 0
    seg = next(tmp_path.glob("*/*_seg.nii.gz"))
    seg.write_text("mine")
    before = tree(tmp_path)
    refused(run("phantom", tmp_path, "--healthy", 1, "--ms", 1, *SMALL), "already there", "--overwrite")
    assert tree(tmp_path) == before
    assert run("phantom", tmp_path, "--healthy", 1, *SMALL)[0] == 0  # other subjects may join
    assert run("phantom", tmp_path, "--ms", 1, *SMALL, "--overwrite")[0] == 0
    assert seg.read_bytes() != b"mine"
    assert not [p for p in tmp_path.rglob(".*")]


def test_phantom_into_a_file(run, tmp_path):
    (tmp_path / "f").write_text("mine")
    for out in (tmp_path / "f", tmp_path / "f/below"):
        refused(run("phantom", out, "--ms", 1, *SMALL), "a file is where a folder should be")
    assert (tmp_path / "f").read_text() == "mine"


def test_interrupted_phantom_leaves_nothing(run, tmp_path, monkeypatch):
    import mmccd.phantom

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.phantom, "save_nifti", pressed)
    code, _out, err = run("phantom", tmp_path / "new", "--ms", 1, *SMALL)
    assert code == 130
    assert err == "mmccd: stopped\n"
    assert not (tmp_path / "new").exists()


def test_interrupted_detect_says_how_to_go_on(run, tmp_path, monkeypatch):
    import mmccd.detect

    def pressed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(mmccd.detect, "detect_many", pressed)
    code, out, err = run("detect", write_case(tmp_path, "a"), "--out", tmp_path / "out")
    assert code == 130
    assert not out
    assert err == "mmccd: stopped; finished cases are kept, go on with --skip-existing\n"


def test_phantom_without_brain(run, tmp_path):
    refused(run("phantom", tmp_path / "new", "--healthy", 1, "--slices", "0:3"), "0:3", "no brain")
    assert not (tmp_path / "new").exists()


def test_phantom_on_a_full_disk(run, tmp_path, monkeypatch):
    import mmccd.phantom

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mmccd.phantom, "save_nifti", full)
    refused(
        run("phantom", tmp_path / "new", "--ms", 1, *SMALL),
        f"into {tmp_path / 'new'}: No space left on device; free some space",
    )
    assert not (tmp_path / "new").exists()


def test_slice_range():
    assert slice_range("") is None
    assert slice_range("70:89") == range(70, 90)
    assert slice_range("0:154") == range(155)
    for bad in ("7", "a:b", "-1:4", "3:2", "1:2:3"):
        with pytest.raises(ValueError, match="FIRST:LAST"):
            slice_range(bad)


# ------------------------------------------------------------------------------------------------- detect
def test_detect_and_evaluate(run, tmp_path):
    for i in range(2):
        write_case(tmp_path / "cases", f"c{i}", ("flair", "t2"), seed=i)
    code, out, err = run("detect", tmp_path / "cases", "--out", tmp_path / "out", "--json", tmp_path / "d.json")
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
    assert json.loads(out)["weights"] == "threshold-t2"
    assert json.loads(out)["input"] == "t2"
    assert pick_detector()[1] == "threshold-flair"
    assert pick_detector("threshold", "t1")[1] == "threshold-t1"
    assert pick_detector("threshold-t1")[0].config.input == "t1"
    assert {f"threshold-{m}" for m in ("flair", "t1", "t1ce", "t2")} <= set(packaged())


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


@pytest.mark.parametrize(("method", "input", "kind"), [("mmccd", "t1", "MMCCD"), ("masked", "t2", "MaskedUNet")])
def test_masked_ones_by_their_short_name(run, tmp_path, method, input, kind):
    "By input over which modality; nothing but the input is looked at, and a terminal gets a bar."
    assert set(METHODS[method].packaged) == set(METHODS["cycle"].packaged) == {"flair", "t1", "t2"}
    assert {packaged_name(method, m) for m in METHODS[method].packaged} <= set(packaged())
    case, name = write_case(tmp_path, "a", (input,)), f"{method}-{input}-{METHODS[method].packaged[input]}"
    code, out, err = run(
        "detect", case, "--out", tmp_path / "out", "--weights", method, "--input", input, "--device", "cpu", "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert not err
    assert (result["weights"], result["input"], result["detector"]) == (name, input, kind)
    shape = nib.load(case / f"a_{input}.nii.gz").shape
    assert nib.load(tmp_path / "out/a/a_anomaly.nii.gz").shape == shape
    assert pick_detector(name)[0].config == pick_detector(method, input)[0].config


@pytest.mark.parametrize("terminal", [True, False])
def test_a_slow_detector_shows_a_bar_on_a_terminal(tmp_path, capsys, monkeypatch, terminal):
    import mmccd.detect

    seen = []
    monkeypatch.setattr(
        mmccd.detect,
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
    for method in set(packaged_methods()) - {"threshold"}:
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
    assert packaged_name("", "t1ce") == packaged_name("threshold", "t1ce") == "threshold-t1ce"
    assert packaged_name("cycle-t1-t2", "t1ce") == "cycle-t1-t2"
    assert pick_detector()[1] == "threshold-flair"
    assert [pick_detector(k)[1] for k in ("cycle", "masked", "mmccd")] == [
        "cycle-flair-t1",
        "masked-flair-t1",
        "mmccd-flair-t1",
    ]
    alone = [k for k in packaged_methods() if not METHODS[k].paired]
    assert alone == ["threshold", "equalised", "ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex"]
    assert [pick_detector(k)[1] for k in alone] == [f"{k}-flair" for k in alone]
    Path("cycle").mkdir()
    assert packaged_name("cycle", "t1") == "cycle-t1-flair"  # an empty folder is no detector
    Threshold(input="t2").save_pretrained("cycle")
    Threshold(input="t2").save_pretrained(".")
    assert pick_detector("cycle")[0].config.input == "t2"
    assert pick_detector()[1] == "threshold-flair"


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
    code, text, err = run("detect", t1, b, "--out", out)
    assert code == 0
    assert "P2: " in text
    assert "threshold-t1 on t1" in text
    assert json.loads((out / "detect.json").read_text())["input"] == "t1"
    code, text, err = run("detect", t1, case, "--out", tmp_path / "out2")  # they differ, so it is FLAIR
    assert code == 2
    assert "threshold-flair on flair" in text
    assert "give --input t1" in err
    refused(run("detect", scan, "--out", tmp_path / "out3"), "its name tells no modality; say which with --input")
    refused(run("detect", t1, "--out", tmp_path / "out3", "--weights", "threshold-flair"), "not flair; give --input t1")
    assert not (tmp_path / "out3").exists()
    assert run("detect", scan, "--out", tmp_path / "out3", "--input", "FLAIR")[0] == 0
    assert run("detect", b, "--out", tmp_path / "out4", "--weights", "threshold")[0] == 0


def test_another_detector_in_the_same_folder(run, tmp_path):
    case = write_case(tmp_path, "a", ("flair", "t2"))
    assert run("detect", case, "--out", tmp_path / "out")[0] == 0
    before = tree(tmp_path)
    refused(
        run("detect", case, "--out", tmp_path / "out", "--input", "t2"),
        "threshold-flair on flair, seed 0",
        "--overwrite",
    )
    assert tree(tmp_path) == before
    assert run("detect", case, "--out", tmp_path / "out", "--input", "t2", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "out/detect.json").read_text())["input"] == "t2"


def test_bids_and_flat_folders(run, tmp_path):
    for i, folder in ((1, "bids/sub-01"), (2, "bids/sub-02")):
        write_case(tmp_path / folder, "anat", seed=i)
    for p in tmp_path.glob("bids/*/anat/*"):
        p.rename(
            p.with_name(p.name.replace("anat_flair", f"{p.parts[-3]}_FLAIR").replace("anat_seg", f"{p.parts[-3]}_seg"))
        )
    code, out, _err = run("detect", tmp_path / "bids", "--out", tmp_path / "out")
    assert code == 0
    assert "sub-01: " in out
    assert "sub-02: " in out
    assert run("evaluate", tmp_path / "out", tmp_path / "bids")[0] == 0
    (flat := tmp_path / "flat").mkdir()
    for p in tmp_path.glob("bids/*/anat/*FLAIR*"):
        (flat / p.name).write_bytes(p.read_bytes())
    refused(run("detect", flat, "--out", tmp_path / "out2"), "several patients", f"{flat}/*_FLAIR.nii.gz")
    assert run("detect", *flat.glob("*_FLAIR.nii.gz"), "--out", tmp_path / "out2")[0] == 0


def test_evaluate_with_the_wrong_truth(run, tmp_path):
    case = write_case(tmp_path, "a")
    assert run("detect", case, "--out", tmp_path / "out")[0] == 0
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
        "config.json is damaged; copy the weights again",
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
    assert run("detect", case / "a_flair.nii.gz", "--out", tmp_path / "out")[0] == 0
    code, out, _err = run("detect", case / "a_flair.nii.gz", "--out", tmp_path / "out", "--skip-existing")
    assert code == 0
    assert "(kept)" in out
    (tmp_path / "scan.nii.gz").write_bytes((case / "a_flair.nii.gz").read_bytes())
    assert run("detect", tmp_path / "scan.nii.gz", "--input", "flair", "--out", tmp_path / "out2")[0] == 0


def test_only_the_cases_asked_for_are_reported(run, tmp_path):
    for i in range(2):
        write_case(tmp_path, f"c{i}")
    run("detect", tmp_path / "c0", "--out", tmp_path / "out")
    code, out, _err = run("detect", tmp_path / "c1", "--out", tmp_path / "out")
    assert code == 0
    assert "c0" not in out
    assert "1 of 1 case in" in out
    assert "c1: " in out


def test_json_into_nowhere(run, tmp_path):
    "Noticed before the work."
    case = write_case(tmp_path / "cases", "a")
    assert run("detect", case, "--out", tmp_path / "out")[0] == 0
    for to in (tmp_path / "no/such/file.json", tmp_path):
        refused(run("evaluate", tmp_path / "out", case, "--json", to), to)
        refused(run("detect", case, "--out", tmp_path / "out2", "--json", to), to)
        refused(run("phantom", tmp_path / "out2", "--ms", 1, "--json", to), to)
        refused(run("demo", "--out", tmp_path / "out2", "--json", to), to)
    assert not (tmp_path / "out2").exists()
    with pytest.raises(ValueError):
        put_json({"x": float("nan")}, "-")


def test_json_never_lands_on_a_scan(run, tmp_path):
    "`--json` takes the next word for its file, and that may be a case."
    case, other = write_case(tmp_path / "cases", "a"), write_case(tmp_path / "cases", "b")
    before = tree(tmp_path)
    refused(
        run("detect", "--json", case / "a_flair.nii.gz", other, "--out", tmp_path / "out"), "a_flair.nii.gz", ".json"
    )
    assert tree(tmp_path) == before


def test_evaluate_scores_the_others_and_says_2(run, tmp_path):
    for i in range(3):
        write_case(tmp_path / "cases", f"c{i}", seed=i)
    assert run("detect", tmp_path / "cases", "--out", tmp_path / "out")[0] == 0
    (tmp_path / "cases/c1/c1_seg.nii.gz").unlink()
    code, out, err = run("evaluate", tmp_path / "out", tmp_path / "cases")
    assert code == 2
    assert "2 subjects" in out
    assert err.count("\n") == 1
    assert "c1_seg.nii.gz" in err


def test_no_progress_bar_unless_on_a_terminal(tmp_path):
    case = write_case(tmp_path, "a")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from mmccd.cli import main; sys.exit(main())",
            "detect",
            case,
            "--out",
            tmp_path / "out",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert "a: " in done.stdout


# ------------------------------------------------------------------------------------------------- demo
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
    import mmccd.detect

    from mmccd import cli
    from mmccd.viz import Sheet

    monkeypatch.setattr(mmccd.detect, "report_figure", lambda found: Sheet(1, 1))  # most of the time is saved by this
    monkeypatch.setattr(cli, "DEMO", {"flair": demo.DEMO["flair"][:2]})  # and this
    folder, out, _ = shown
    before = (folder / DEMO[1] / "detect.json").read_text()
    assert run("demo", "--out", folder, "--seed", 1)[0] == 0  # it is the demo's own folder
    assert json.loads((folder / DEMO[1] / "detect.json").read_text())["seed"] == 1 != json.loads(before)["seed"]
    for line in [
        s.removeprefix("Next:").split()[1:] for s in out.splitlines() if "mmccd " in s and "YOUR_CASE" not in s
    ]:
        assert run(*line)[0] == 0, line


# ------------------------------------------------------------------------------------------------- train
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("store") / "slices.zarr"
    prepare(
        Phantoms(healthy=2, seed=7),
        place,
        size=32,
        slices=range(77, 80),
        modalities=["flair", "t1", "t2"],
        progress=False,
    )
    return place


def words(store, *more, method="cycle"):
    return ["train", method, store, "--input", "t1", "--target", "flair", "--device", "cpu", "--preset", "smoke", *more]


@pytest.mark.parametrize(
    ("options", "modalities", "networks"),
    [(["--steps", 4], (), 2), (["--modalities", "T2, flair,t1"], ("t2", "flair", "t1"), 1)],
)
def test_train_cycle_and_use_it(run, store, tmp_path, options, modalities, networks):
    code, out, err = run(*words(store, *options, "--out", tmp_path / "run"))
    assert code == 0 and out.startswith(
        f"cycle from t1 to flair: {4 if networks == 2 else 20} steps, validation loss "
    ), err
    d = Detector.from_pretrained(tmp_path / "run")
    assert (d.config.input, d.config.target, d.config.size, d.config.modalities, len(d.translator.nets)) == (
        "t1",
        "flair",
        32,
        modalities,
        networks,
    )
    case = write_case(tmp_path, "a", ("t1",))  # looking needs no other modality
    code, out, err = run(
        "detect", case, "--weights", tmp_path / "run", "--out", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert code == 0
    assert not err
    assert json.loads(out)["input"] == "t1"
    assert json.loads(out)["detector"] == "CyclicUNet"
    if modalities:
        refused(
            run(*words(store, "--modalities", "t1,flair", "--resume", "--out", tmp_path / "run")),
            "Cannot go on",
            "modalities",
        )


@pytest.mark.parametrize("method", ["mmccd", "masked"])
def test_train_a_masked_one_without_back(run, store, tmp_path, method):
    "One pair, and the way back is trained with the way there."
    assert run(*words(store, "--steps", 2, "--out", tmp_path / "run", method=method))[0] == 0
    d, first = Detector.from_pretrained(tmp_path / "run"), new_detector(method, input="t1", target="flair", size=32)
    assert (d.config.modalities, d.config.frozen_decoder, d.config.diffusion) == ((), False, method == "mmccd")
    for part in ("f", "g"):
        assert any(not torch.equal(v, first.state_dict()[k]) for k, v in d.state_dict().items() if k.startswith(part))


def test_train_with_the_packaged_way_back(run, tmp_path):
    "The command that made the packaged weights, in small: the same record as in Python, the way back of `cycle` bit for bit."
    place, three = tmp_path / "slices.zarr", ["flair", "t1", "t2"]
    prepare(Phantoms(healthy=2, seed=7), place, size=64, slices=range(79, 80), modalities=three, progress=False)
    code, out, _err = run(
        "train",
        "mmccd",
        place,
        "--input",
        "flair",
        "--target",
        "t2",
        "--modalities",
        "flair,t1,t2",
        "--back",
        "cycle",
        "--preset",
        "smoke",
        "--steps",
        1,
        "--lr",
        0.002,
        "--val",
        1,
        "--validate-every",
        1,
        "--val-slices",
        2,
        "--device",
        "cpu",
        "--out",
        tmp_path / "run",
        "--json",
    )
    about = json.loads(out)["about"]
    data, val = store_data(place, "flair", "t2", 1, modalities=three)
    first = load_frozen_decoder(
        new_detector(
            "mmccd",
            0,
            input="flair",
            target="t2",
            modalities=three,
            unet="tiny",
            size=64,
            normalisation=data.recipe["normalisation"],
        ),
        load_detector("cycle-flair-t2"),
    )
    assert code == 0
    assert about == about_run(
        first, data, val, make_config("smoke", steps=1, lr=0.002, validate_every=1, val_slices=2, seed=0)
    )
    d, back = Detector.from_pretrained(tmp_path / "run"), load_detector("cycle-flair-t2").translator.state_dict()
    assert d.config.frozen_decoder
    assert all(torch.equal(v, back[k]) for k, v in d.g.state_dict().items())
    assert any(not torch.equal(v, first.f.state_dict()[k]) for k, v in d.f.state_dict().items())


def test_resume_with_back(run, store, tmp_path, monkeypatch):

    three = ["--modalities", "flair,t1,t2"]
    for seed in (0, 1):
        assert run(*words(store, *three, "--steps", 1, "--seed", seed, "--out", tmp_path / f"cycle{seed}"))[0] == 0

    def masked(out, *more, back=0):
        return run(
            *words(
                store,
                *three,
                "--steps",
                3,
                *(["--back", tmp_path / f"cycle{back}"] if back is not None else []),
                "--out",
                tmp_path / out,
                *more,
                method="masked",
            )
        )

    assert masked("plain")[0] == 0
    real = progress.Progress.step
    monkeypatch.setattr(
        progress.Progress,
        "step",
        lambda self, step, *a: (step == 1 and os.kill(os.getpid(), signal.SIGTERM), real(self, step, *a)),
    )
    code, _out, err = masked("run")
    assert code == 130
    assert "go on with --resume" in err
    monkeypatch.undo()
    before = tree(tmp_path / "run")
    refused(masked("run", "--resume", back=None), "Cannot go on", "--back was given and is not given now")
    refused(masked("run", "--resume", back=1), "Cannot go on", "the first weights are others (of another --back)")
    refused(masked("run", "--resume", "--validate-every", 2), "--validate-every was 10 and is 2 now")
    refused(masked("run", "--resume", "--val-slices", 2), "--val-slices was 16 and is 2 now")
    assert tree(tmp_path / "run") == before
    assert masked("run", "--resume")[0] == 0
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tmp_path / "plain/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "options", "say"),
    [
        ("cycle", ["--back", "cycle"], "cycle learns its own way back: leave --back out"),
        ("toy", ["--back", "cycle"], "toy learns its own way back: leave --back out"),
        ("mmccd", ["--back", "nonsense"], "unknown weights 'nonsense'"),
        ("mmccd", ["--back", "/no/such"], "unknown weights '/no/such'"),
        ("masked", ["--back", ""], "no modality t1ce"),
        ("mmccd", ["--back", "cycle"], "unknown weights 'cycle-t1-t1ce'"),
        ("mmccd", ["--validate-every", 0], "validate_every must be at least 1"),
        ("masked", ["--val-slices", -1], "val_slices must be at least 1"),
        ("mmccd", ["--modalities", "flair"], "shall know flair, and t1 is not among them"),
    ],
)
def test_train_masked_refuses(run, store, tmp_path, method, options, say):
    "Before the data are read, which here have no t1ce."
    refused(
        run(
            *words(
                store,
                *options,
                "--target",
                "t1ce" if method in ("mmccd", "masked") else "flair",
                "--out",
                tmp_path / "run",
                method=method,
            )
        ),
        say,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("back", ["threshold-t1", "cycle", "cycle-flair-t2", "."])
@pytest.mark.parametrize("modalities", [[], ["--modalities", "flair,t1,t2"]])
def test_a_way_back_that_does_not_fit(run, store, tmp_path, monkeypatch, back, modalities):
    "No cycle at all; made for slices of another size; a folder with neither."
    monkeypatch.chdir(tmp_path)
    Threshold(input="t1").save_pretrained(tmp_path)
    refused(
        run(*words(store, "--back", back, *modalities, "--out", tmp_path / "run", method="mmccd")),
        "the way back from flair to t1 does not fit: give a cycle that learned",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "options", "say"),
    [
        ("toy", ["--modalities", "a,b"], "toy knows one pair of modalities only: leave --modalities out"),
        ("cycle", ["--modalities", "flair"], "shall know flair, and t1 is not among them"),
        ("cycle", ["--modalities", "flair,t1,pd"], "no modality pd"),
        ("cycle", ["--modalities", "flair,t1,t1ce"], "no modality t1ce"),
        ("cycle", ["--modalities", "flair,t1,t1"], "two or more different modalities, got flair, t1, t1"),
        ("cycle", ["--modalities", "flair,t2"], "and t1 is not among them"),
        ("cycle", ["--target", "t1"], "input and target are both t1"),
        ("cycle", ["--target", "t1ce"], "no modality t1ce"),
    ],
)
def test_train_cycle_refuses(run, store, tmp_path, method, options, say):
    before = tree(store)
    refused(run(*words(store, *options, "--out", tmp_path / "run", method=method)), say)
    assert not (tmp_path / "run").exists()
    assert tree(store) == before


def alone(store, *more, method="ae"):
    return [w for k, w in enumerate(words(store, *more, method=method)) if k not in (5, 6)]  # without --target


@pytest.mark.parametrize(
    ("method", "kind"),
    [("ae", "AE"), ("ae-dense", "AE"), ("vae", "AE"), ("dae", "DAE"), ("ddpm", "DDPM"), ("ddpm-simplex", "DDPM")],
)
def test_train_with_one_modality_and_use_it(run, store, tmp_path, method, kind):
    several = ["--modalities", "T2,flair, t1"] if method in ("ae", "ddpm") else []
    code, out, err = run(
        *alone(store, "--steps", 2, "--val-slices", 2, *several, "--out", tmp_path / "run", method=method)
    )
    assert (
        code == 0 and out.startswith(f"{method} on t1: 2 steps, validation loss ") and "from" not in out.split(",")[0]
    ), err
    d = Detector.from_pretrained(tmp_path / "run")
    assert (type(d).__name__, d.config.input, d.config.size, d.config.modalities) == (
        kind,
        "t1",
        32,
        ("flair", "t1", "t2") if several else (),
    )
    case = write_case(tmp_path, "a", ("t1",))  # looking needs no other modality
    code, out, err = run(
        "detect", case, "--weights", tmp_path / "run", "--out", tmp_path / "out", "--device", "cpu", "--json"
    )
    assert code == 0
    assert not err
    assert (json.loads(out)["input"], json.loads(out)["detector"]) == ("t1", kind)
    assert nib.load(tmp_path / "out/a/a_anomaly.nii.gz").shape == nib.load(case / "a_t1.nii.gz").shape
    refused(
        run(
            *alone(
                store,
                "--steps",
                2,
                "--val-slices",
                2,
                "--resume",
                "--modalities",
                "t1,t2",
                "--out",
                tmp_path / "run",
                method=method,
            )
        ),
        "Cannot go on",
        "--modalities was",
    )


@pytest.mark.parametrize("method", ["ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex"])
def test_one_modality_has_no_target(run, store, tmp_path, method):
    refused(
        run(*words(store, "--out", tmp_path / "run", method=method)),
        f"{method} looks at one modality only: leave --target out",
    )
    refused(run(*alone(store, "--back", "cycle", "--out", tmp_path / "run", method=method)), method, "--back")
    refused(
        run(*alone(store, "--modalities", "flair,t2", "--out", tmp_path / "run", method=method)),
        "shall know flair, t2, and t1 is not among them",
    )
    refused(
        run(*alone(store, "--modalities", "t1,t1", "--out", tmp_path / "run", method=method)),
        "modalities must be different ones, got t1, t1",
    )
    refused(run(*alone(store, "--input", "t1ce", "--out", tmp_path / "run", method=method)), "no modality t1ce")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["cycle", "mmccd", "masked", "toy"])
@pytest.mark.parametrize("options", [[], ["--input", "t2"], ["--input", "flair"], ["--modalities", "flair,t1"]])
def test_another_modality_must_be_named(run, store, tmp_path, method, options):
    if method == "toy" and "--modalities" in options:
        return  # knows no others
    refused(
        run(*alone(store, *options, "--out", tmp_path / "run", method=method)),
        f"{method} goes to another modality: say to which by --target",
    )
    assert not (tmp_path / "run").exists()


def test_a_store_whose_slices_do_not_fit_the_network(run, tmp_path):
    place = tmp_path / "odd.zarr"
    prepare(
        Phantoms(healthy=2, seed=7), place, size=36, slices=range(78, 80), modalities=["flair", "t1"], progress=False
    )
    refused(run(*words(place, "--out", tmp_path / "run")), "size must be a multiple of 8", "36")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- Ctrl-C
def test_ctrl_c(tmp_path):
    "A real process, a real signal."
    done = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from mmccd.cli import main; sys.exit(main())",
            "phantom",
            tmp_path / "out",
            "--glioma",
            "5",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "out").exists() and done.poll() is None:
        time.sleep(0.1)
    time.sleep(1)
    os.kill(done.pid, signal.SIGINT)
    _out, err = done.communicate(timeout=120)
    assert done.returncode == 130 and err == "mmccd: stopped\n", err
    assert not (tmp_path / "out").exists() or not [p for p in (tmp_path / "out").rglob(".*")]


def test_make_subjects_from_python(tmp_path):
    made = make_subjects(tmp_path, [("healthy", 4)], seed=2, slices=range(80, 81), progress=False)
    assert made == [
        {"id": phantom_id("healthy", 2, 4), "kind": "healthy", "folder": str(tmp_path / phantom_id("healthy", 2, 4))}
    ]
    assert np.asarray(nib.load(next((tmp_path / made[0]["id"]).glob("*seg*"))).dataobj).sum() == 0


# ------------------------------------------------------------------------------------------------- post-processing
def test_detect_with_post_processing(run, tmp_path):
    case = write_case(tmp_path, "a")
    code, out, err = run("detect", case, "--out", tmp_path / "plain")
    assert code == 0
    assert not err
    assert "map after" not in out
    code, text, err = run(
        "detect", case, "--out", tmp_path / "out", "--median", "3", "--erode", "1.5", "--smallest", "0.01"
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
    refused(
        run("detect", case, "--out", tmp_path / "out"), "post-processing", "after median of 3 voxels", "--overwrite"
    )
    assert run("detect", case, "--out", tmp_path / "out", "--overwrite")[0] == 0
    code, text, err = run("detect", case, "--out", tmp_path / "small", "--smallest", "0.01")
    assert code == 0
    assert not err
    assert "pieces from 0.01 ml" in text


def test_detect_calibrated_on_healthy_cases(run, tmp_path):
    case = write_case(tmp_path, "a")
    for i in range(2):
        write_case(tmp_path / "well", f"h{i}", seed=5 + i, lesion=False)
    code, out, err = run(
        "detect", case, "--out", tmp_path / "out", "--median", "3", "--healthy", tmp_path / "well", "--json"
    )
    result = json.loads(out)
    assert code == 0
    assert not err
    assert result["calibration"]["cases"] == ["h0", "h1"]
    assert result["calibration"]["post"]["median"] == 3
    assert result["cases"][0]["threshold"] == result["calibration"]["threshold"] != pick_detector()[0].threshold
    refused(
        run("detect", case, "--out", tmp_path / "out", "--median", "3", "--healthy", tmp_path / "well/h0"),
        "already holds results",
        "threshold",
    )
    code, out, err = run(
        "detect",
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
        run("detect", case, "--out", tmp_path / "three", "--healthy", case), "Cannot calibrate on a: it has a lesion"
    )
    refused(run("detect", case, "--out", tmp_path / "three", "--healthy", tmp_path / "nowhere"), "nowhere")
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
    code, _out, err = run("detect", write_case(tmp_path, "a"), "--out", tmp_path / "out", "--erode", "500")
    assert code == 2
    assert "Cannot process the map of a: an erosion of 500 mm leaves nothing of this brain; choose less." in err
    assert not (tmp_path / "out").exists()
