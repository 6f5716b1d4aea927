"""An ensemble in the hands of `detect`: each case with what it has, one threshold for all, a record that says which."""

import json
import shutil

import numpy as np
import pytest
import torch
from toy_cases import tree, write_case
from toy_detection import ready, refused

from mmccd.cases.case import Case
from mmccd.detection import detect_case, detect_many, evaluate, recalibrate
from mmccd.detection.inputs import choose_input, input_of
from mmccd.detection.maps import anomaly_volume, member_maps
from mmccd.detection.score_text import score_text
from mmccd.detector import Threshold, fingerprint, load_detector, save_detector
from mmccd.ensemble import CHOICES, TRANSLATE, Ensemble, EnsembleConfig, evidence, evidence_shares, set_scales
from mmccd.slices import to_slices
from mmccd.weights.hub import packaged

pytestmark = pytest.mark.usefixtures("quick_reports")


@pytest.fixture
def members(tmp_path):
    "Names of stored members by modality."
    names = {}
    for m in ("flair", "t2", "t1"):
        save_detector(ready(Threshold(input=m)), tmp_path / "members" / m)
        names[m] = str(tmp_path / "members" / m)
    return names


@pytest.fixture
def ensemble(members):
    "Three choices; T1 is used where there is nothing else."
    flair, t2, t1 = (members[m] for m in ("flair", "t2", "t1"))
    toy = Ensemble(choices={"flair+t2": (flair, t2), "flair": (flair,), "t1": (t1,)})
    return set_scales(toy, dict.fromkeys(toy.config.choices, torch.linspace(0, 2, 201)), data="toy")


@pytest.fixture
def mixed(tmp_path):
    "Cases that have both, FLAIR alone, T1 alone, and nothing that is of use."
    for id, modalities in (("both", ("flair", "t1", "t2")), ("one", ("flair",)), ("other", ("t1",)), ("none", ("t2",))):
        write_case(tmp_path / "mixed", id, modalities)
    return tmp_path / "mixed"


def test_evidence_is_blind_to_units():
    a, brain = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8) > 0.3
    torch.testing.assert_close(evidence(300 * a, brain), evidence(a, brain))
    assert not evidence(a, brain)[~brain].any()
    assert not evidence(torch.zeros_like(a), brain).any()
    assert not evidence(a, torch.zeros_like(brain)).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"choices": {}}, "at least one choice"),
        ({"choices": {"t1": ()}}, "each choice a detector"),
        ({"scales": {"pd": 1.0}}, "a scale for pd"),
        ({"window": 2}, "odd"),
        ({"power": 0.0}, "power"),
    ],
)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        EnsembleConfig(**wrong)


def test_the_first_choice_that_fits(ensemble):
    for available, choice in ((("t2", "flair"), "flair+t2"), (("flair", "t1"), "flair"), (("t1", "t2"), "t1")):
        assert ensemble.choose(available) == choice_of(ensemble, available) == choice
    assert choice_of(ensemble, ("flair", "t1", "t2"), "t1") == "t1"
    with pytest.raises(ValueError, match=r"no detectors for t2: it needs flair\+t2 or flair or t1"):
        ensemble.choose(["t2"])
    assert choice_of(ready(), ("t1",)) == "flair", "one of a single modality asks for it whatever there is"


def choice_of(detector, available, allowed=None):
    return choose_input(detector, available, allowed)


def test_it_cannot_be_a_member_of_itself(ensemble, tmp_path):
    save_detector(ensemble, tmp_path / "e")
    with pytest.raises(ValueError, match="is an ensemble itself"):
        _ = Ensemble(choices={"flair": (str(tmp_path / "e"),)}).parts


def test_stored_and_loaded(ensemble, tmp_path):
    again = load_detector(save_detector(ensemble, tmp_path / "e"))
    assert again.config == ensemble.config
    assert again.threshold == 1
    assert fingerprint(again) == fingerprint(ensemble)
    before = fingerprint(again)
    save_detector(ready(Threshold(input="flair", sign=-1)), ensemble.config.choices["flair"][0])
    assert fingerprint(load_detector(tmp_path / "e")) != before, "what it does depends on its members"


def test_a_volume_is_the_sum_of_its_members(ensemble, mixed):
    case = Case.load(mixed / "both")
    brain = to_slices(case.brain)
    maps = member_maps(case, ensemble, "flair+t2")
    alone = [anomaly_volume(case, Threshold(input=m), m) for m in ("flair", "t2")]
    expected = sum(np.where(case.brain, (a / np.median(a[case.brain])) ** 0.25, 0) for a in alone) / 2
    found = detect_case(case, ensemble)
    np.testing.assert_allclose(found.anomaly, expected / ensemble.config.scales["flair+t2"], rtol=1e-2)
    assert (found.segmentation == (found.anomaly > 1)).all()
    assert found.input == "flair+t2"
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.shares == evidence_shares(ensemble, maps, brain, to_slices(found.segmentation))


def test_each_case_with_what_it_has(ensemble, mixed, tmp_path):
    result = detect_many(mixed, ensemble, tmp_path / "out")
    cases = {c["id"]: c for c in result["cases"]}
    assert result["input"] == "flair+t2+t1"
    assert {id: c.get("input") for id, c in cases.items()} == {
        "both": "flair+t2",
        "one": "flair",
        "other": "t1",
        "none": None,
    }
    assert cases["none"]["status"] == "failed"
    assert "no detectors for t2" in cases["none"]["error"]
    assert cases["none"]["error"].count("\n") == 0
    assert set(cases["both"]["evidence"]) == {"flair", "t2"}
    record = json.loads((tmp_path / "out/both/both_detect.json").read_text())
    assert set(record["inputs"]) == {"flair", "t2", "seg"}, "what is not used is not read"
    scores = evaluate(tmp_path / "out", mixed)
    assert len(scores["scores"]["subjects"]) == 3
    assert not scores["notes"]
    assert "| Ensemble " in score_text(scores)


def test_kept_results_and_a_modality_that_comes_later(ensemble, mixed, tmp_path):
    detect_many(mixed, ensemble, tmp_path / "out")
    again = detect_many(mixed, ensemble, tmp_path / "out", skip_existing=True)
    assert [c["status"] for c in again["cases"]] == ["skipped", "failed", "skipped", "skipped"]
    shutil.copy(mixed / "none/none_t2.nii.gz", mixed / "one/one_t2.nii.gz")
    later = {c["id"]: c for c in detect_many(mixed, ensemble, tmp_path / "out", skip_existing=True)["cases"]}
    assert later["one"]["status"] == "done"
    assert later["one"]["input"] == "flair+t2"
    shutil.rmtree(mixed / "one")
    write_case(tmp_path / "elsewhere", "one", ("flair",), seed=9)
    refusal = detect_many(tmp_path / "elsewhere", ensemble, tmp_path / "out")["cases"]
    assert "another scan" in {c["id"]: c for c in refusal}["one"]["error"]


def test_only_what_is_allowed(ensemble, mixed, tmp_path):
    assert input_of(mixed / "both", ensemble, "t1") == "t1"
    assert input_of(mixed / "both/both_t1.nii.gz", ensemble, ensemble.config.input) == "t1"
    (tmp_path / "scan.nii.gz").write_bytes((mixed / "both/both_t1.nii.gz").read_bytes())
    assert input_of(tmp_path / "scan.nii.gz", ensemble, "flair") == "flair"
    with pytest.raises(ValueError, match="scan"):
        input_of(tmp_path / "scan.nii.gz", ensemble, ensemble.config.input)
    result = detect_many(mixed / "both", ensemble, tmp_path / "out", input="t1")
    assert result["cases"][0]["input"] == "t1"


def test_own_healthy_cases(ensemble, tmp_path):
    for id, modalities in (("h0", ("flair", "t2")), ("h1", ("flair",))):
        write_case(tmp_path / "healthy", id, modalities, seed=3, lesion=False)
    recalibrate(ensemble, tmp_path / "healthy", fpr=0.05)
    found = [detect_case(Case.load(tmp_path / "healthy" / id), ensemble) for id in ("h0", "h1")]
    values = np.concatenate([f.anomaly[f.case.brain] for f in found])
    assert 0.03 < (values > ensemble.threshold).mean() <= 0.05


# ---- as it comes with the package


def test_the_packaged_one_is_the_default(run, tmp_path):
    case = write_case(tmp_path, "a", ("flair", "t1"))
    code, out, err = run("detect", case, "--out", tmp_path / "out", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "a: " in out
    assert "in flair" in out
    assert "1 of 1 case" in out
    result = json.loads((tmp_path / "out/detect.json").read_text())
    assert (result["weights"], result["detector"], result["cases"][0]["input"]) == ("ensemble", "Ensemble", "flair+t1")


def test_what_the_packaged_one_cannot_use(run, tmp_path):
    case = write_case(tmp_path, "a", ("t1",))
    before = tree(tmp_path)
    refused(run("detect", case, "--out", tmp_path / "out", "--input", "pd"), "'pd'")
    refused(
        run("detect", case, "--out", tmp_path / "out", "--input", "flair"), "it has t1", "the ensemble needs flair;"
    )
    assert tree(tmp_path) == before


def test_the_packaged_one_is_what_the_chapter_says():
    shipped = load_detector("ensemble")
    assert "ensemble" in packaged()
    assert shipped.config.choices == CHOICES
    assert set(shipped.config.scales) == set(CHOICES)
    assert shipped.threshold == 1
    assert {n.removeprefix(TRANSLATE) for names in CHOICES.values() for n in names} <= set(packaged())
    for choice, names in CHOICES.items():
        given = {shipped.member(n).config.input for n in names}
        given |= {shipped.member(n).config.target for n in names if n.startswith(TRANSLATE)}
        assert given == set(choice.split("+"))
