"""The packaged ensemble: one healthy phantom in small sets a scale for each choice, and the card says what was done."""

import pack_ensemble

from mmccd.detector import load_detector
from mmccd.ensemble import CHOICES


def test_scales_and_card(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pack_ensemble, "PLACES", range(75, 90, 12))
    assert pack_ensemble.main(["--heads", "1", "--out", str(tmp_path)]) == 0
    made = load_detector(tmp_path / "ensemble")
    assert set(made.config.scales) == set(CHOICES)
    assert all(1 < v < 4 for v in made.config.scales.values())
    assert made.threshold == 1
    assert 0.009 < made.calibration["fpr_reached"] <= 0.01
    card = (tmp_path / "ensemble" / "README.md").read_text()
    assert card.count("\n| ") == len(CHOICES) + 8
    assert "not a medical device" in card
    assert all(name in card for names in CHOICES.values() for name in names)
    assert capsys.readouterr().out.count("\n") == len(CHOICES) + 2
