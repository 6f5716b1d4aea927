"The cheapest setting: what the tool measures, the rule by which it chooses, and that the library's default is what it chose."

import json
from dataclasses import replace

import mmccd_settings as tool
import pytest
import torch

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.detector import load_detector
from mmccd.masked_diffusion import SAMPLERS, Sampler, with_config
from mmccd.masking import MaskPlan
from mmccd.runtime import single_thread
from mmccd.scoring import average_precision

FEW = {
    "paper": Sampler("disjoint", steps=3),
    "tiles, 1 step": Sampler("disjoint"),
    "4 strips at once, 1 step": Sampler("disjoint", n_strips=4),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    prepare(
        Phantoms(healthy=1, glioma=2, seed=5),
        folder / "v.zarr",
        size=64,
        slices=tool.PLACES,
        modalities=list(tool.MODALITIES),
        progress=False,
    )
    return folder / "v.zarr"


def fake(ap, evaluations, ids=(0, 1)):
    return [{"id": i, "ap": ap + 0.1 * i, "evaluations": evaluations, "lesion": 1.0, "rest": 0.5} for i in ids]


def test_the_rule():
    base = fake(0.5, 10_000)

    def of(**found):
        return {k: tool.line(fake(*v), base) for k, v in found.items()}

    assert (
        tool.cheapest(of(paper=(0.5, 10_000), a=(0.4895, 40), b=(0.4915, 60), c=(0.6, 65))) == "b"
    )  # 0.0105 below; good enough; too dear
    assert tool.cheapest(of(paper=(0.5, 10_000), a=(0.49, 70))) is None
    with pytest.raises(ValueError, match="same patients"):
        tool.line(fake(0.5, 1, (0, 2)), base)


def test_a_row_is_what_it_says(place):
    with single_thread():
        d, s = load_detector("mmccd-t2-t1"), Sampler("disjoint", n_strips=2, steps=2)
        b = tool.protocol_slice(SliceStore(place), SliceStore(place).ids[0]).batch
        row = tool.by_sampler(d, b, s)
        a = with_config(d, sampler=s).anomaly_map(b["t2"], b["brain"])
        assert row["mean"]["ap"] == pytest.approx(average_precision(a[b["brain"]], b["lesion"][b["brain"]]), abs=1e-6)
        assert row["mean"]["lesion"] == pytest.approx(a[b["lesion"] & b["brain"]].mean().item(), rel=1e-4)
        assert row["mean"]["evaluations"] == MaskPlan(s.family(64), b["brain"]).cost(2)
        assert len({round(row[p]["ap"], 9) for p in tool.POOLS}) > 2
        assert tool.open_eyes(d, b)["mean"]["evaluations"] == 2
        hidden = torch.where(b["lesion"], 0.0, b["t2"])
        assert tool.open_eyes(d, b | {"t2": hidden})["mean"]["ap"] != tool.open_eyes(d, b)["mean"]["ap"]


def test_goes_on_where_it_was_stopped(place, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "SETTINGS", FEW)
    monkeypatch.setattr(tool, "WIDTHS", (0, 8))
    monkeypatch.setattr(tool, "STEPS", ("tiles, 1 step", "4 strips at once, 1 step"))
    monkeypatch.setattr(tool, "VALIDATION", Phantoms(healthy=1, glioma=2, seed=5))
    monkeypatch.setattr(tool, "ProcessPoolExecutor", lambda *a, **k: Here())
    monkeypatch.setattr(tool, "as_completed", lambda found: found)
    monkeypatch.setattr(tool, "prepare", lambda *a, **k: None)
    words = [
        "--weights",
        "mmccd-flair-t2",
        "cycle-flair-t2",
        "--store",
        str(place),
        "--work",
        str(tmp_path / "w"),
        "--out",
        str(tmp_path / "r.json"),
    ]
    tool.main(words)
    result, rows = (
        json.loads((tmp_path / "r.json").read_text()),
        (tmp_path / "w" / "rows.jsonl").read_text().splitlines(),
    )
    kept = rows[: len(rows) // 2]
    (tmp_path / "w" / "rows.jsonl").write_text("\n".join(kept) + "\n" + rows[-1][:50])  # cut off within a line
    calls, measure = [], tool.measure
    monkeypatch.setattr(tool, "measure", lambda *a: calls.append(a) or measure(*a))
    tool.main(words)
    assert json.loads((tmp_path / "r.json").read_text()) == result
    assert len(calls) == len(rows) - len(kept)
    assert set(result["samplers"]) == set(FEW)
    assert len(result["patients"]) == 2
    assert set(result["options"]["mmccd-flair-t2"]) == {tool.SHIPPED, *tool.OPTIONS}
    assert set(result["options"]["cycle-flair-t2"]) == {tool.SHIPPED, tool.OPTIONS[0]}
    assert list(result["widths"]) == ["mmccd-flair-t2"]
    assert (
        result["widths"]["mmccd-flair-t2"]["8"]["ap"] == result["samplers"]["tiles, 1 step"]["ap"]
    )  # tiles are 8 wide
    assert (
        result["options"]["mmccd-flair-t2"][tool.OPTIONS[0]]["ap"]
        != result["options"]["mmccd-flair-t2"][tool.SHIPPED]["ap"]
    )
    assert len(result["pairs"]) == 6
    assert all(v["4 strips at once, 1 step"]["difference"]["mean"] == 0 for v in result["pairs"].values())
    assert "| paper |" in tool.table(result)


class Here:
    "An executor in this process."

    def __enter__(self):
        return self

    def __exit__(self, *a):
        pass

    def submit(self, f, *a):
        value = f(*a)
        return type("Done", (), {"result": lambda self: value})()


def test_the_default_is_what_was_chosen():
    r = json.loads(tool.RESULT.read_text())
    assert r["weights"] == {w: tool.print_of(w) for w in r["weights"]}, (
        "measured with other weights: run tools/mmccd_settings.py again"
    )
    assert r["fast"] == tool.cheapest(r["samplers"])
    assert SAMPLERS["fast"] == replace(tool.SETTINGS[r["fast"]], pooling=tool.best_pooling(r["pooling"][r["fast"]]))
    assert tool.SETTINGS["paper"] == SAMPLERS["paper"]
    assert len(r["patients"]) == 20
