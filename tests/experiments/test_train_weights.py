"""How the packaged weights are made: their cards say it, and the script does it in small."""

import json
import re
import shutil

import pytest
import torch
import train_weights as tool
import yaml

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import Threshold, healthy_threshold, load_detector
from mmccd.error_map import ExpectedError
from mmccd.registry import METHODS
from mmccd.weights.hub import WEIGHTS

METHODS_MADE, STORES, LIMITS = tool.load_settings()


def test_every_packaged_method_can_be_made_again():
    packaged = {p.parent.name for p in WEIGHTS.glob("*/config.json")}
    assert {*METHODS_MADE, "threshold", "equalised", "ensemble"} == packaged  # the last by pack_ensemble.py
    assert all(METHODS[m].trainable for m in METHODS_MADE)


@pytest.mark.parametrize("method", [*METHODS_MADE, "threshold", "equalised"])
def test_the_card_says_how(method):
    card = (WEIGHTS / method / "README.md").read_text()
    assert f"`python experiments/train_weights.py {method}`" in card
    assert "tools/" not in card
    if method in METHODS_MADE:
        assert tool.commands(method, METHODS_MADE[method], STORES) == re.search(r"```sh\n(.*?)\n```", card, re.S)[
            1
        ].split("\n")


@pytest.mark.parametrize("method", METHODS_MADE)
def test_the_card_quotes_the_scores_of_these_weights(method):
    card = (WEIGHTS / method / "README.md").read_text()
    numbers = re.compile(r"\d\.\d\d|\d+\.?\d*%")
    quoted = tool.quote_scores(method, METHODS_MADE[method], WEIGHTS)
    if "Not measured yet" in quoted:
        result = json.loads((tool.RESULTS / f"{METHODS_MADE[method].recipe}.json").read_text())
        assert not any(row.split()[0] == method for row in result["methods"])  # never measured, not outdated
        assert quoted in card
    for line in quoted.splitlines():
        if line.startswith(f"| {method}-"):
            name = line.split("|")[1].strip()
            kept = next(li for li in card.splitlines() if li.startswith(f"| {name} |"))
            assert numbers.findall(line) == numbers.findall(kept)


def test_other_weights_are_not_given_the_scores_of_these(tmp_path):
    shutil.copytree(WEIGHTS / "dae", tmp_path / "dae")
    config = json.loads((tmp_path / "dae" / "config.json").read_text())
    config["config"]["sigma"] = 0.3
    (tmp_path / "dae" / "config.json").write_text(json.dumps(config))
    assert "Not measured yet" in tool.quote_scores("dae", METHODS_MADE["dae"], tmp_path)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("weights") / "c.zarr"
    prepare(Phantoms(healthy=2, seed=6), place, size=32, slices=range(66, 74), modalities=["flair"], progress=False)
    return place


def test_the_calibration_counts_what_it_says(store):
    data = SliceStore(store).dataset(in_memory=False)
    batch = data.batch(range(len(data)))
    values = Threshold().anomaly_map(batch["flair"], batch["brain"])
    middle = torch.tensor([r.place >= 70 for r in data.rows])
    whole = tool.calibration_of(Threshold(), store, [])
    assert whole["threshold"] == healthy_threshold(values[middle][batch["brain"][middle]], 0.01)
    assert whole["slices"] == 8
    assert whole["subjects"] == 2
    assert whole["fpr_reached"] <= 0.01
    assert whole["fpr_whole_heads"] == (values[batch["brain"]] > whole["threshold"]).double().mean().item()
    few = tool.calibration_of(Threshold(), store, [70, 72])
    assert few["slices"] == 4
    assert few["data"].startswith("axial slices 70, 72 of")
    assert "fpr_whole_heads" not in few
    with pytest.raises(ValueError, match="no slices at place 80"):
        tool.calibration_of(Threshold(), store, [70, 80])


@pytest.mark.slow
def test_a_method_is_trained_calibrated_and_packed(tmp_path, monkeypatch):
    "All of it, with 3 steps of training and 2 slices that set a threshold."
    settings = yaml.safe_load((tool.ROOT / "experiments" / "weights.yaml").read_text())["methods"]["dae"]
    words = "--input flair --modalities flair,t1,t2 --preset smoke --steps 3 --val 1 --validate-every 3 --val-slices 2"
    smooth = {"error": {"window": 3, "how": "median", "expected": True}, "expect_slices": 3}
    small = tool.Settings(**settings | smooth | {"train": words, "places": [74, 75]})
    shape = "--slices 74:75 --size 32 --modalities flair,t1,t2"
    stores = {"train": f"--healthy 3 --seed 401 {shape}", "calibrate": f"--healthy 1 --seed 403 {shape}"}
    stores["expect"] = f"--healthy 2 --seed 410 {shape}"
    monkeypatch.setattr(tool, "load_settings", lambda: ({"dae": small}, stores, LIMITS))
    where = ["--work", str(tmp_path), "--out", str(tmp_path / "weights")]
    (tmp_path / "weights").mkdir()
    with pytest.raises(ValueError, match="no run of training"):
        tool.main(["dae", *where, "--card-only"])
    assert tool.main(["dae", *where]) == 0
    folder = tmp_path / "weights" / "dae"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "curve.png",
        "log.csv",
        "model.safetensors",
    ]
    for m in tool.MODALITIES:
        d = load_detector(folder, variant=m)
        assert d.config.input == m
        assert d.calibration["subjects"] == 1
        assert d.calibration["fpr_reached"] <= 0.01
        run, learned = load_detector(tmp_path / "run-dae").state_dict(), ExpectedError(3).state_dict()
        own = {k: v for k, v in d.state_dict().items() if v.is_floating_point()}
        assert all(torch.equal(v, run[k].half().float()) for k, v in own.items() if k in run)
        assert {k.removeprefix("expected_error.") for k in own.keys() - run.keys()} == learned.keys()
        assert not torch.equal(d.expected_error.last.weight, learned["last.weight"])
    card = (folder / "README.md").read_text()
    assert "# dae: denoising autoencoder" in card
    assert "3 steps of" in card
    assert "Not measured yet" in card
    assert "the error, divided by what a small network expects" in card
    assert "median over 3x3 pixels" in card
    assert LIMITS in card
    before = card
    assert tool.main(["dae", *where, "--card-only"]) == 0
    assert (folder / "README.md").read_text() == before
