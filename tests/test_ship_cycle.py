"""What packs the cycles: the threshold of each, and a card that quotes the evidence made with these very weights."""

import pytest
import ship_cycle
import torch

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import Threshold
from mmccd.weights.hub import WEIGHTS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    "Two healthy subjects: three slices inside 70 to 89, two below."
    place = tmp_path_factory.mktemp("ship") / "slices"
    prepare(Phantoms(healthy=2, seed=77), place, size=64, slices=range(68, 73), modalities=["flair"], jobs=1)
    return SliceStore(place).dataset()


def test_threshold_is_set_in_the_slices_of_the_protocol_and_reported_for_all(data):
    d = ship_cycle.calibrate_on(Threshold(input="flair"), data)
    inside = [k for k, r in enumerate(data.rows) if 70 <= r.place <= 89]
    assert d.calibration["slices"] == len(inside) == 6
    assert len(data) == 10
    all_of, some = data.batch(list(range(10))), data.batch(inside)

    def share(b):
        return (d.anomaly_map(b["flair"], b["brain"])[b["brain"]] > d.threshold).double().mean().item()

    assert share(some) == pytest.approx(d.calibration["fpr_reached"])
    assert 0.005 < share(some) <= 0.01
    assert share(all_of) == pytest.approx(d.calibration["fpr_whole_heads"])
    assert share(all_of) != share(some)
    low, high = d.calibration["fpr_of_subjects"]
    assert low <= d.calibration["fpr_reached"] <= high
    assert d.calibration["subjects"] == 2


def test_card_quotes_the_evidence_of_these_weights():
    found = ship_cycle.scores(WEIGHTS / "cycle")
    assert "Not measured" not in found
    assert found in (WEIGHTS / "cycle" / "README.md").read_text()


def test_card_does_not_quote_the_evidence_of_other_weights(monkeypatch):
    monkeypatch.setattr(ship_cycle, "fingerprint", lambda detector: "another")
    assert ship_cycle.scores(WEIGHTS / "cycle").startswith("Not measured")


def test_tensors_are_kept_in_half_precision_once():
    from safetensors.torch import load_file

    kept = load_file(WEIGHTS / "cycle" / "model.safetensors")
    assert {t.dtype for t in kept.values()} == {torch.float16}
