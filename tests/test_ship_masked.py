"""What packs the masked detectors: float16 once, the library's sampler, a threshold for each pair, and a card that says how it was made."""

import inspect
import json
import shlex
from types import SimpleNamespace

import pytest
import ship_masked as tool
import torch

from mmccd import cli
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import app
from mmccd.cycle import CyclicUNet
from mmccd.detection.maps import map_slices
from mmccd.detector import Threshold, fingerprint, load_detector, save_variants
from mmccd.masked_diffusion import MMCCD, SAMPLERS, MaskedUNet, Sampler, load_frozen_decoder
from mmccd.runtime import single_thread
from mmccd.training_loop import make_config
from mmccd.translate import directed_pairs
from mmccd.weights.hub import WEIGHTS, packaged_places

SMALL = dict(channels=8, mults=(1, 2), blocks=1, attention=())
PAIRS = ["-".join(p) for p in directed_pairs(tool.MODALITIES)]
LOG = "step,samples,loss,val_loss\n0,0,,0.5\n1500,6000,0.2,0.25\n3000,12000,0.2,0.3\n"


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Two healthy subjects, slices 70 to 74."
    place = tmp_path_factory.mktemp("healthy") / "slices"
    prepare(
        Phantoms(healthy=2, seed=77),
        place,
        size=64,
        slices=range(70, 75),
        modalities=list(tool.MODALITIES),
        jobs=1,
        progress=False,
    )
    return place


def random(detector):
    torch.manual_seed(1)
    for p in detector.parameters():
        torch.nn.init.normal_(p, std=0.2)  # an untrained U-Net of ours ends in zeros
    return detector


def a_run(folder, cls, cycle, store):
    "What `mmccd train` would have left."
    detector = load_frozen_decoder(
        random(
            cls(
                size=32, modalities=tool.MODALITIES, unet=SMALL, sampler=Sampler("published", n_strips=2, pooling="min")
            )
        ),
        cycle,
    )
    detector.save_pretrained(folder)
    recipe, ids = SliceStore(store).recipe, [f"phantom1-healthy-s9-{i:03d}" for i in range(5)]
    about = {
        "config": {"input": "flair", "target": "t2", "modalities": list(tool.MODALITIES)},
        "training": vars(make_config("tiny", steps=3000, lr=0.002, batch_size=4, validate_every=1500)),
        "data": {
            "ids": ids[:3],
            "what": "300 slices of a toy",
            "recipe": recipe | {"phantom": {"version": 1, "seed": 9, "whole": True}},
        },
        "validation": {"ids": ids[3:], "what": "200 slices of a toy"},
    }
    record = {
        "status": "done",
        "about": about,
        "result": {"samples": 12000, "val_loss": 0.3, "seconds": 90.0},
        "date": "2026-01-01",
        "device": "cpu",
        "torch": "2",
    }
    (folder / "train.json").write_text(json.dumps(record))
    (folder / "log.csv").write_text(LOG)
    (folder / "curve.png").write_bytes(b"a curve")
    return folder


@pytest.fixture(scope="module", params=[MMCCD, MaskedUNet])
def shipped(request, tmp_path_factory, store):
    folder = tmp_path_factory.mktemp("ship")
    cycle = random(CyclicUNet(size=32, modalities=tool.MODALITIES, unet=SMALL)).eval()
    save_variants({"flair-t2": cycle}, folder / "out" / "cycle", half=True)
    (folder / "run").mkdir()
    run = a_run(folder / "run", request.param, load_detector(folder / "out" / "cycle"), store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tool, "PLACES", range(70, 75))
        patch.setattr(tool, "EVERY", 4)
        tool.main([str(run), str(store), "--out", str(folder / "out")])
    return SimpleNamespace(run=run, out=folder / "out", name=tool.WAYS[request.param.__name__].name, cls=request.param)


def test_tensors_are_kept_once_in_half_precision(shipped):
    from safetensors.torch import load_file

    kept = load_file(shipped.out / shipped.name / "model.safetensors")
    assert {t.dtype for t in kept.values()} == {torch.float16}
    assert sorted(p.name for p in shipped.out.iterdir()) == sorted({"cycle", shipped.name})
    assert sorted(packaged_places(shipped.out)) == ["cycle-flair-t2", *(f"{shipped.name}-{p}" for p in sorted(PAIRS))]
    trained, got = (
        load_detector(shipped.run).state_dict(),
        load_detector(packaged_places(shipped.out)[f"{shipped.name}-t2-t1"]).state_dict(),
    )
    for k, v in trained.items():
        assert torch.equal(v.half().float(), got[k])


def test_each_pair_has_the_fast_sampler_and_a_threshold_of_its_own(shipped, store):
    data, seen = SliceStore(store).dataset(), set()
    batch = data.batch([k for k, r in enumerate(data.rows) if r.place in (70, 74)])
    for pair in PAIRS:
        d = load_detector(packaged_places(shipped.out)[f"{shipped.name}-{pair}"])
        assert type(d) is shipped.cls
        assert f"{d.config.input}-{d.config.target}" == pair
        assert d.config.sampler == SAMPLERS["fast"] != load_detector(shipped.run).config.sampler
        values = map_slices(d, batch[d.config.input], batch["brain"], torch.Generator().manual_seed(0))[batch["brain"]]
        c = d.calibration
        assert (values > c["threshold"]).double().mean().item() == c["fpr_reached"]
        assert 0.009 < c["fpr_reached"] <= 0.01
        assert c["slices"] == 4
        assert c["subjects"] == 2
        assert c["pixels"] == len(values)
        assert "fpr_whole_heads" not in c
        assert c["data"].startswith("axial slices 70, 74 of 10 slices")
        seen.add(c["threshold"])
    assert len(seen) == 6


def test_two_processes_find_the_same_thresholds(shipped, store, monkeypatch):
    if shipped.cls is not MMCCD:
        pytest.skip("one class is enough")
    monkeypatch.setattr(tool, "PLACES", range(70, 75))
    monkeypatch.setattr(tool, "EVERY", 4)
    monkeypatch.setattr(tool, "directed_pairs", lambda _: (("flair", "t1"), ("t2", "t1")))
    for pair, c in tool.thresholds(shipped.run, store, jobs=2):
        assert c | {"date": 0} == load_detector(packaged_places(shipped.out)[f"mmccd-{'-'.join(pair)}"]).calibration | {"date": 0}


def test_the_card_says_what_was_trained_and_what_it_costs(shipped):
    card, d = (
        (shipped.out / shipped.name / "README.md").read_text(),
        load_detector(packaged_places(shipped.out)[f"{shipped.name}-flair-t2"]),
    )
    steps = d.config.sampler.steps if d.config.diffusion else 1
    most = len(d.config.sampler.family(32)) * (steps + 1)
    for words in (
        "lowest 0.2500 at step 1500, 0.3000 at the end",
        "300 slices of a toy",
        "12,000 slices seen",
        f"at most {most:,} network evaluations",
        "axial slices 70, 74 of",
        "Not measured yet: `python tools/mmccd_phantom.py`",
    ):
        assert words in card
    assert (
        ("diffusion: validation" in card) == d.config.diffusion == ("as published: 6,464" in card)
    )  # 64 masks at 32 pixels, 100 steps and one back
    assert "{" not in card
    assert (shipped.out / shipped.name / "log.csv").read_text() == LOG
    assert (shipped.out / shipped.name / "curve.png").read_bytes() == b"a curve"


def test_at_most_is_what_is_counted(shipped):
    d, calls = load_detector(packaged_places(shipped.out)[f"{shipped.name}-flair-t2"]), []
    for net in (d.f.net, d.g):
        net.register_forward_hook(lambda _, x, __: calls.append(len(x[0])))
    d.anomaly_map(torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32) > 0)
    assert sum(calls) == tool.cost(d)


def test_the_commands_make_the_same_training(shipped, monkeypatch):
    made, train, ship = tool.commands(shipped.run, tool.WAYS[shipped.cls.__name__])
    assert (
        made
        == "mmccd prepare phantom train.zarr --healthy 5 --seed 9 --whole-heads --slices 70:74 --size 64 --modalities flair,t1,t2"
    )
    assert train == (
        f"mmccd train {shipped.name} train.zarr --input flair --target t2 --modalities flair,t1,t2 --back cycle --steps 3000 --batch-size 4 --lr 0.002 --val 2 --validate-every 1500 --out run-{shipped.name}"
    )
    assert ship.split()[1:3] == ["tools/ship_masked.py", f"run-{shipped.name}"]
    if not {"back", "validate_every"} <= inspect.signature(train.train).parameters.keys():
        pytest.skip("mmccd train does not know --back and --validate-every yet")
    asked = []
    monkeypatch.setattr(cli, "run_training", lambda a: asked.append(a) or 0)
    assert app.main(shlex.split(train)[1:]) == 0
    assert {k: asked[0][k] for k in ("method", "back", "steps", "lr", "val", "validate_every", "modalities")} == dict(
        method=shipped.name, back="cycle", steps=3000, lr=0.002, val=2, validate_every=1500, modalities="flair,t1,t2"
    )


def test_the_card_quotes_the_evidence_of_these_weights_only(shipped, tmp_path, monkeypatch):
    def summary(v):
        return {"summary": {"ap": {"mean": v}}}

    keys = [f"{n} {p}" for n in ("cycle", "masked", "mmccd") for p in PAIRS] + [
        f"threshold {m}" for m in tool.MODALITIES
    ]
    methods = {k: {"input": k.split()[1].split("-")[0], "target": k.split("-")[-1]} for k in keys}
    for p in PAIRS:
        methods[f"{shipped.name} {p}"]["fingerprint"] = fingerprint(load_detector(packaged_places(shipped.out)[f"{shipped.name}-{p}"]))
    value = {"cycle": 0.25, "masked": 0.5, "mmccd": 0.75, "threshold": 0.125}
    r = {
        "methods": methods,
        "kinds": {k: {key: summary(value[key.split()[0]]) for key in keys} for k in ("glioma", "ms", "infarct")},
        "subjects": {k: {"rows": [0]} for k in ("glioma", "ms", "infarct")},
        "healthy": {"ids": [0], "summary": {key: {"mean": 0.01} for key in keys}},
        "seed": {"evidence": 402},
        "date": "today",
        "command": "python tools/mmccd_phantom.py",
    }
    monkeypatch.setattr(tool, "RESULT", tmp_path / "r.json")
    tool.RESULT.write_text(json.dumps(r))
    rows = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in tool.quoted(shipped.out / shipped.name, shipped.name).splitlines()
        if line.startswith("|")
    ]
    named = dict(zip(rows[0], rows[2]))
    assert len(rows) == 8
    assert {len(r) for r in rows} == {len(rows[0])}
    assert named["AP MS"] == f"{value[shipped.name]:.2f}"
    assert named["cycle"] == "0.25, 0.25, 0.25"
    assert named["threshold on the same input"] == "0.12, 0.12, 0.12"
    assert named.get("masked U-Net") == ("0.50, 0.50, 0.50" if shipped.name == "mmccd" else None)
    methods[f"{shipped.name} t1-t2"]["fingerprint"] = "another"
    tool.RESULT.write_text(json.dumps(r))
    assert tool.quoted(shipped.out / shipped.name, shipped.name).startswith("Not measured")


def test_what_does_not_fit_is_refused(shipped, store, tmp_path):
    with pytest.raises(ValueError, match="holds no training"):
        tool.main([str(tmp_path), str(store)])
    record = json.loads((shipped.run / "train.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(record | {"status": "not done"}))
    with pytest.raises(ValueError, match="is not done"):
        tool.main([str(tmp_path), str(store)])
    (tmp_path / "train.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="give the store"):
        tool.main([str(tmp_path)])

    def ship(detector):
        return (
            detector.save_pretrained(tmp_path),
            tool.main([str(tmp_path), str(store), "--out", str(shipped.out)]),
        )

    with pytest.raises(ValueError, match="holds a Threshold: give"):
        ship(Threshold())
    with pytest.raises(ValueError, match="--modalities flair,t1,t2"):
        ship(MMCCD(size=32, unet=SMALL))
    other = load_detector(shipped.run)
    with torch.no_grad():
        next(other.g.parameters()).add_(0.1)
    with pytest.raises(ValueError, match="not that of the packaged cycle"):
        ship(other)
    with pytest.raises(ValueError, match="no slices at place 80"):
        tool.main([str(shipped.run), str(store), "--out", str(shipped.out)])


@pytest.mark.parametrize("name", [w.name for w in tool.WAYS.values()])
def test_the_packaged_card_quotes_the_evidence(name):
    card = WEIGHTS / name / "README.md"
    if not card.exists():
        pytest.skip(f"{name} has not been packed by this tool")
    found = tool.quoted(WEIGHTS / name, name)
    assert "Not measured" not in found
    assert found in card.read_text()
    for p in PAIRS:
        assert load_detector(f"{name}-{p}").config.sampler == SAMPLERS["fast"]
    tool.check_back(load_detector(f"{name}-t1-t2"), "the package", WEIGHTS)
