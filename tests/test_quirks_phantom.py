"What each quirk of a protocol moves: what is measured is what stands in the words beside it."

import json
import subprocess
import sys
from types import SimpleNamespace

import cyclic_phantom as base
import numpy as np
import pytest
import quirks_phantom as tool
import torch
import zarr

from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cycle import CyclicUNet
from mmccd.detector import Threshold, fingerprint, load_detector, save_variants
from mmccd.protocols import PAPER
from mmccd.runtime import single_thread
from mmccd.scoring import dice

SMALL = dict(size=32, unet=dict(channels=8, mults=(1, 2), blocks=1, attention=()))


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Stores in small and two detectors; every protocol but `own size` scores 64x64 slices at 32x32."
    folder = tmp_path_factory.mktemp("small")
    for name, who in (
        ("evidence", Phantoms(healthy=2, glioma=3, ms=1, seed=5)),
        ("calibration", Phantoms(healthy=2, seed=6)),
    ):
        prepare(
            who,
            folder / f"{name}.zarr",
            size=64,
            slices=range(70, 90),
            modalities=list(base.MODALITIES),
            progress=False,
        )
    torch.manual_seed(0)
    cycle = CyclicUNet(**SMALL).eval()
    for p in cycle.parameters():
        torch.nn.init.normal_(p, std=0.2)  # an untrained U-Net of ours ends in zeros
    detectors, said = {"threshold-flair": Threshold(), "cycle-flair-t2": cycle}, []
    evidence, calibration = SliceStore(folder / "evidence.zarr"), SliceStore(folder / "calibration.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "SIZE", 32)
        result = tool.evaluate(detectors, evidence, calibration, said.append)
    return SimpleNamespace(evidence=evidence, calibration=calibration, detectors=detectors, result=result, said=said)


def arrays(s, id):
    "A subject's slices, read without the tool: FLAIR, brain, lesion (20 h w)."
    group = zarr.open_group(str(s.place), path=id, mode="r")
    masks = group["masks"][:].astype(bool)
    return group["images"][:, base.MODALITIES.index("flair")].astype(np.float32), masks[:, 0], masks[:, 1]


def test_every_protocol_has_its_run(small):
    wanted = [
        "own size",
        "clean",
        *(f"clean + {q}" for q in tool.QUIRKS),
        "paper",
        *(f"paper - {q}" for q in tool.QUIRKS),
    ]
    who = [r[0] for r in small.result["subjects"]["rows"]]
    assert [w.split("-")[1] for w in who] == ["glioma"] * 3 + ["healthy"] * 2
    assert len(small.said) == 2
    assert set(tool.QUIRKS) == set(tool.SHORT) == set(small.result["quirks"])
    for name, d in small.result["detectors"].items():
        assert list(d["runs"]) == wanted
        assert d["fingerprint"] == fingerprint(small.detectors[name])
        for run in d["runs"].values():
            assert len(run["rows"]) == 3
            assert {len(r) for r in run["rows"]} == {len(tool.SCORES)}
        assert d["runs"]["paper"]["healthy"] is None
        assert d["runs"]["clean"]["healthy"]["n"] == 2


def test_both_corners_are_what_a_hand_computes(small):
    "The threshold at its own size, read and scored without the tool, mmccd.protocols or mmccd.scoring's thresholds."

    def mapped(x):
        return np.log1p(np.exp(3 * x))

    healthy = np.sort(
        np.concatenate(
            [mapped(x[::10])[b[::10]] for x, b, _ in (arrays(small.calibration, id) for id in small.calibration.ids)]
        )
    )
    h, slices = healthy[len(healthy) - 1 - int(0.01 * len(healthy))], []
    for id in (r[0] for r in small.result["subjects"]["rows"]):
        x, brain, lesion = arrays(small.evidence, id)
        k = int((brain & lesion).sum((1, 2)).argmax()) if lesion.any() else int(brain.sum((1, 2)).argmax())
        slices.append((np.where(brain[k], mapped(x[k]), 0), lesion[k], brain[k], 70 + k))
    assert [s[-1] for s in slices] == [r[1] for r in small.result["subjects"]["rows"]]
    own = small.result["detectors"]["threshold-flair"]["runs"]["own size"]
    assert own["threshold"] == pytest.approx(h, rel=1e-3)
    for (a, t, b, _), row in zip(slices[:3], own["rows"]):
        assert row[0] == pytest.approx(dice((a > h)[b], t[b]), abs=5e-3)
    assert own["healthy"]["marked"] == pytest.approx(
        np.mean([(a > h)[b].mean() for a, _, b, _ in slices[3:]]), abs=3e-3
    )
    test, _batches, _ = tool.collect(small.evidence, small.calibration)
    maps = [base.method("", "", Threshold()).maps(s.batch)[0, 0].numpy() for s in test]
    got, top = tool.score(maps, test, None, PAPER, 0), max(a.max() for a, t, _, _ in slices[:3])
    y, x = np.mgrid[-4:5, -4:5]
    from scipy.ndimage import binary_erosion

    cut = [(a / top, t, binary_erosion(b, x * x + y * y <= 16, border_value=1)) for a, t, b, _ in slices[:3]]
    best = max(np.mean([dice((a > k / 1000) & e, t) for a, t, e in cut]) for k in range(100))
    assert got["dice"] == pytest.approx(best, abs=5e-3)


def test_what_stops_is_said_and_the_rest_is_kept(small):
    for d in small.result["detectors"].values():
        run, whole = d["runs"]["paper - no_healthy"], d["runs"]["paper"]
        assert "empty truth" in run["error"]
        assert run["assd"] is None
        assert {r[2] for r in run["rows"]} == {None}
        assert (run["dice"], run["auc"]) == pytest.approx((whole["dice"], whole["auc"]), abs=2e-2)
        assert run["healthy"]["n"] == 2
        assert "error" in d["runs"]["clean + empty_error"]
        assert d["runs"]["clean + empty_error"]["dice"] == d["runs"]["clean"]["dice"]
        assert all(
            "error" not in run for k, run in d["runs"].items() if k.startswith("clean") and "empty_error" not in k
        )


def test_moves_follow_from_the_rows(small):
    for name, m in small.result["moves"].items():
        runs = small.result["detectors"][name]["runs"]
        for way, made in (("on", lambda q: (f"clean + {q}", "clean")), ("off", lambda q: (f"paper - {q}", "paper"))):
            assert set(m[way]) == set(tool.QUIRKS)
            for q in tool.QUIRKS:
                after, before = (runs[k] for k in made(q))
                for i, c in enumerate(tool.SCORES):
                    pairs = [a[i] - b[i] for a, b in zip(after["rows"], before["rows"]) if None not in (a[i], b[i])]
                    assert m[way][q][c]["mean"] == (
                        pytest.approx(np.mean(pairs), abs=2e-4, rel=1e-3) if pairs else None
                    )
        assert m["on"]["pixels"]["dice"]["mean"] == 0 == m["on"]["background"]["assd"]["mean"]
        assert m["on"]["pixels"]["assd"]["mean"] < 0
        assert m["on"]["fitted"]["dice"]["mean"] >= 0


def test_the_table_shows_the_moves(small):
    text = tool.table(small.result, "threshold-flair")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.split("\n\n")[1].split("\n")]
    assert {len(line) for line in lines} == {7}
    assert len(lines) == 3 + len(tool.QUIRKS)
    by_name, m = {line[0]: line[1:] for line in lines}, small.result["moves"]["threshold-flair"]
    assert by_name[tool.SHORT["empty_error"]][2] == "stops"
    assert by_name[tool.SHORT["no_healthy"]][5] == "stops"
    assert (
        by_name[tool.SHORT["fitted"]][0] == f"{m['on']['fitted']['dice']['mean']:+.3f}"
        or m["on"]["fitted"]["dice"]["mean"] == 0
    )


def test_strips_that_miss_the_brain():
    full, b = torch.ones(1, 1, 128, 128, dtype=torch.bool), torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    b[..., 14:, 14:] = True

    def subject(brain):
        return SimpleNamespace(batch={"brain": brain})

    assert tool.near_the_border([subject(b)]) == 0
    assert tool.near_the_border([subject(full)]) == pytest.approx(1 - (114 / 128) ** 2)


def test_who_cannot_be_measured_is_said(tmp_path, small):
    stores = ["--evidence", str(small.evidence.place), "--calibration", str(small.calibration.place)]
    with pytest.raises(ValueError, match="its folder does not exist"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(ValueError, match="who is none of the subjects"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="was made with size 64, not size 240"):
        tool.main([*stores, "--out", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="there is no glioma at places 70 to 89"):
        tool.collect(small.calibration, small.calibration)
    assert not list(tmp_path.iterdir())


def test_a_stranger_is_refused_in_one_sentence(tmp_path):
    run = subprocess.run(
        [sys.executable, tool.__file__, "--as-is", "--work", str(tmp_path / "none"), "--out", str(tmp_path / "r.json")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_all_of_it_by_one_call(tmp_path, small, monkeypatch, capsys):
    "From stores to the file, with detectors of ours."
    names = {"threshold-flair": "threshold on FLAIR", "cycle-flair-t2": "cycle"}
    for name, d in small.detectors.items():
        method, _, variant = name.partition("-")
        save_variants({variant: d}, tmp_path / "weights" / method)
    monkeypatch.setattr(tool, "NAMES", names)
    monkeypatch.setattr(tool, "SIZE", 32)
    monkeypatch.setattr(
        base,
        "STORES",
        {
            "evidence": (Phantoms(healthy=2, glioma=3, ms=1, seed=5), range(70, 90)),
            "calibration": (Phantoms(healthy=2, seed=6), range(70, 90)),
        },
    )
    tool.main(
        [
            "--as-is",
            "--evidence",
            str(small.evidence.place),
            "--calibration",
            str(small.calibration.place),
            "--out",
            str(tmp_path / "r.json"),
        ],
        tmp_path / "weights",
    )
    made = json.loads((tmp_path / "r.json").read_text())
    for name, d in made["detectors"].items():
        assert d["runs"] == small.result["detectors"][name]["runs"]
    assert (made["moves"] == small.result["moves"] and made["missing"] == {"evidence": [], "calibration": []}) or made[
        "missing"
    ] == {}
    assert capsys.readouterr().out.count("each quirk switched on in the clean protocol") == 2
    assert made["command"].endswith("--as-is")


@pytest.fixture(scope="module")
def kept():
    if not tool.RESULT.exists():
        pytest.skip("data/results/quirks.json has not been made")
    return json.loads(tool.RESULT.read_text())


def test_kept_result_is_complete(kept):
    assert tool.RESULT.stat().st_size < 400_000
    assert kept["missing"] == {}
    assert kept["command"] == "python tools/quirks_phantom.py"
    assert kept["date"] >= "2026-11-23"
    assert kept["protocol"] == tool.PROTOCOL
    assert kept["size"] == tool.SIZE
    assert kept["quirks"] == tool.SHORT
    assert kept["columns"] == list(tool.SCORES)
    assert kept["before"] == [base.store_command(k, "build/cyclic_phantom") for k in base.STORES]
    assert kept["seed"] == {k: p.seed for k, (p, _) in base.STORES.items()}
    kinds = [base.kind_of(r[0]) for r in kept["subjects"]["rows"]]
    assert kinds.count("glioma") == 60 - len(kept["left_out"])
    assert kinds.count("healthy") == 30
    assert list(kept["detectors"]) == list(tool.NAMES)
    for d in kept["detectors"].values():
        assert list(d["runs"]) == [name for name, _ in tool.runs()]
        assert all(len(r["rows"]) == kinds.count("glioma") for r in d["runs"].values())


def test_kept_result_follows_from_its_rows(kept):
    assert kept["moves"] == json.loads(json.dumps(tool.moves(kept)))
    for d in kept["detectors"].values():
        for run in d["runs"].values():
            for i, c in enumerate(tool.SCORES):
                if run[c] is not None:
                    assert run[c] == pytest.approx(np.mean([r[i] for r in run["rows"]]), rel=1e-4)
                else:
                    assert c == "assd"
                    assert "error" in run


def test_kept_result_is_of_the_packaged_detectors(kept):
    for name, d in kept["detectors"].items():
        assert d["fingerprint"] == fingerprint(load_detector(name))


def test_kept_result_agrees_with_the_evidence(kept):
    "The clean protocol at its own size is what data/results/mmccd_phantom.json says of the same maps."
    there = tool.RESULT.with_name("mmccd_phantom.json")
    if not there.exists():
        pytest.skip("data/results/mmccd_phantom.json has not been made")
    found = json.loads(there.read_text())
    for name, d in kept["detectors"].items():
        key = name.replace("-", " ", 1)
        if found["methods"][key]["fingerprint"] != d["fingerprint"]:
            pytest.skip("the two results are of other weights")
        summary, own = found["kinds"]["glioma"][key]["summary"], d["runs"]["own size"]
        assert (own["dice"], own["auc"], own["threshold"]) == pytest.approx(
            (summary["dice"]["mean"], summary["auroc"]["mean"], found["methods"][key]["threshold"]), rel=1e-3
        )
