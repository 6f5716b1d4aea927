"""The floor of the imagination: what is not drawn anew costs nothing, and what is drawn anew adds up."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from mmccd.anatomy import stream

KEPT = Path(__file__).resolve().parents[2] / "data" / "results" / "imagination_floor.json"
probe = importlib.import_module("probes.imagination_floor")
OPTIONS = probe.Options(1, 5, 1, 32, (60, 95), 77, ("flair", "t2"))


def test_only_named_streams_are_new():
    def own(name):
        return stream("healthy", 5, 0, name).random()

    def new(name, again=0):
        return probe.redraw(5, 0, name, ("noise", "gyri"), again).random()

    assert new("texture") == own("texture")
    assert new("brain mask") == own("brain mask")
    assert len({own("noise t2 70"), new("noise t2 70"), new("noise t2 70", 1), new("gyri")}) == 4


def test_what_is_kept_leaves_no_error(monkeypatch):
    monkeypatch.setattr(probe, "REDRAWN", {"nothing": (), "noise": ("noise",), "folds": ("noise", "gyri")})
    found = probe.measure(OPTIONS, 0)
    nothing, noise, folds = (found["error"][k] for k in ("nothing", "noise", "folds"))
    assert not nothing.any()
    assert (noise.sum(1) > 0).all()
    assert (2 * noise.sum(1) < folds.sum(1)).all()
    r = probe.ceiling([found], "noise", 0)
    assert 0.5 < r["r2"] < 1
    assert r["heads"] == pytest.approx([r["r2"]])
    share = found["pixels"] / found["pixels"].sum()
    of = [k for k in range(len(share)) if share[k]]
    assert np.dot(list(r["tissue"].values()), share[of]) == pytest.approx(r["r2"])  # shares of one variance


def test_each_step_leaves_more_open():
    redrawn = json.loads(KEPT.read_text())["redrawn"]
    for m in ("flair", "t1", "t2"):
        r2 = [redrawn[k]["modalities"][m]["r2"] for k in ("texture", "folds", "scanner")]
        assert 1 > r2[0] > r2[1] > r2[2] > 0
