"""The evidence about baselines on phantoms: what is measured, what is taken from earlier results, and how much of a lesion comes back."""

import copy
import json
import shlex
from types import SimpleNamespace

import baselines_phantom as tool
import cyclic_phantom as base
import numpy as np
import pytest
import torch

from mmccd import cli, store
from mmccd.baselines import Equalised
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import app
from mmccd.cycle import CyclicUNet
from mmccd.detector import Threshold, fingerprint, load_detector, save_variants
from mmccd.intensity import tukey
from mmccd.masked_diffusion import MMCCD, MaskedUNet, Sampler
from mmccd.phantom import make_phantom
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.slices import to_slices
from mmccd.translate import directed_pairs
from mmccd.weights.hub import packaged_places

SMALL = dict(size=32, modalities=tool.MODALITIES, unet=dict(channels=8, mults=(1, 2), blocks=1, attention=()))
FEW = Sampler("disjoint", width=16)  # 4 masks of 32x32
MEASURED = ["everything positive", *(f"{n} {m}" for m in tool.MODALITIES for n in tool.NAMES)]


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


def random(detector):
    torch.manual_seed(1)
    for p in detector.parameters():
        torch.nn.init.normal_(p, std=0.2)  # as made, a network of ours ends in zeros
    return detector.eval()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Stores and detectors in small, nothing trained; what was measured, and an earlier result of the same subjects."
    folder = tmp_path_factory.mktemp("small")
    for name, who in (
        ("evidence", Phantoms(healthy=1, glioma=2, ms=1, seed=5)),
        ("calibration", Phantoms(healthy=1, seed=6)),
    ):
        prepare(
            who,
            folder / f"{name}.zarr",
            size=64,
            slices=range(70, 90),
            modalities=list(tool.MODALITIES),
            progress=False,
        )
    weights = folder / "weights"
    for name in tool.BASELINES:
        d = random(new_detector(name, **SMALL, n_steps=2))
        save_variants({m: d.for_modality(m) for m in tool.MODALITIES}, weights / name)
        (weights / name / "log.csv").write_text("step,samples,loss\n1,16,1\n")
    for name, d in (
        ("cycle", CyclicUNet(**SMALL)),
        ("masked", MaskedUNet(**SMALL, sampler=FEW)),
        ("mmccd", MMCCD(**SMALL, sampler=FEW)),
    ):
        random(d)
        save_variants({f"{x}-{y}": d.for_pair(x, y) for x, y in directed_pairs(tool.MODALITIES)}, weights / name)
    for name, cls in (("threshold", Threshold), ("equalised", Equalised)):
        save_variants({m: cls(input=m) for m in tool.MODALITIES}, weights / name)
    evidence, calibration = SliceStore(folder / "evidence.zarr"), SliceStore(folder / "calibration.zarr")

    def look(methods, *more):
        return base.evaluate(methods, evidence, calibration, lambda _: None, *more)

    about = {"phantom": 1, "seed": {"evidence": 5}, "fpr": 0.01}
    result = about | look([tool.make(k, weights=weights) for k in tool])
    quick = {
        "cycle": Threshold(),
        "masked": Threshold(sign=-1),
        "mmccd": Threshold(input="t1"),
    }  # stand for the slow ones
    named = {f"{n} {x}-{y}": quick[n] for n in tool.TAKEN for x, y in directed_pairs(tool.MODALITIES)}

    def more(k):
        return {
            "fingerprint": fingerprint(load_detector(packaged_places(weights)[k.replace(" ", "-")])),
            "trained": {"steps": 1, "samples": 16},
        }

    rows = [
        base.method(k, k.split()[0], d, **more(k))._replace(input=k.split()[1].split("-")[0], target=k.split("-")[1])
        for k, d in named.items()
    ]
    earlier = about | {"every": 10, "evaluations": {"cycle": 2.0, "masked": 8.0, "mmccd": 36.0}} | look(rows, 10)
    old = {"cyclic_phantom.json": {k: v for k, v in earlier.items() if k != "every"}, "mmccd_phantom.json": earlier}
    subjects = [base.protocol_slice(evidence, r[0]) for r in result["subjects"]["glioma"]["rows"]]
    return SimpleNamespace(
        evidence=evidence,
        calibration=calibration,
        weights=weights,
        result=result,
        old=json.loads(json.dumps(old)),
        subjects=subjects,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A glioma at its own size, and its protocol slice in a store."
    folder, p = tmp_path_factory.mktemp("whole"), make_phantom("glioma", 5, 0, range(70, 90))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "make_phantom", lambda *_, **__: p)  # it need not be made twice
        prepare(
            Phantoms(glioma=1, seed=5),
            folder / "s.zarr",
            size=240,
            slices=range(70, 90),
            modalities=list(tool.MODALITIES),
            progress=False,
        )
    subject = base.protocol_slice(SliceStore(folder / "s.zarr"), p.id)
    return SimpleNamespace(p=p, subject=subject, twin=tool.twin_of(subject, 5)[1])


def test_every_method_has_its_row(small):
    methods = small.result["methods"]
    assert list(tool.keys()) == MEASURED
    assert list(methods) == MEASURED
    assert set(tool.NAMES) == {"threshold", "equalised", *tool.BASELINES}
    for key, m in list(methods.items())[1:]:
        assert m["input"] == key.split()[1]
        assert m["needs"] == [m["input"]]
        assert m["target"] is None
        assert m["fpr_reached"] <= 0.01
        assert ("trained" in m) == (key.split()[0] in tool.BASELINES)
        assert m["fingerprint"] == fingerprint(load_detector(packaged_places(small.weights)[key.replace(" ", "-")]))
    aps = [small.result["kinds"]["glioma"][k]["summary"]["ap"]["mean"] for k in MEASURED]
    assert len(set(aps)) == len(aps) - 3, (
        "each looks with its own network, and only ranks and brightness of one slice order pixels alike"
    )


def test_equal_ranks_order_as_brightness_does(small):
    "On one slice, equalising changes no order: AP is the same; one threshold for all subjects marks other pixels."
    differ = []
    for m in tool.MODALITIES:
        a, b = (base.rows(small.result, "glioma", f"{n} {m}") for n in ("threshold", "equalised"))
        for x, y in zip(a, b):
            assert x["ap"] == pytest.approx(y["ap"], abs=1e-3)
        differ += [x["dice_oracle"] != y["dice_oracle"] for x, y in zip(a, b)]
    assert any(differ)


def test_two_processes_measure_the_same(small):
    some = [tool.make(k, weights=small.weights) for k in ("everything positive", "vae t1", "ddpm-simplex t2")]
    got = base.evaluate(
        some, small.evidence, small.calibration, lambda _: None, look=tool.in_processes(2, weights=small.weights)
    )
    assert list(got["methods"]) == [m.key for m in some]
    assert tool.in_processes(1) is base.in_groups
    for m in some:
        assert got["methods"][m.key] == small.result["methods"][m.key]
        assert got["healthy"]["shares"][m.key] == small.result["healthy"]["shares"][m.key]
        for kind in ("glioma", "ms"):
            assert got["kinds"][kind][m.key] == small.result["kinds"][kind][m.key]


def test_earlier_rows_are_taken_and_marked(small):
    got, before = tool.take(copy.deepcopy(small.result), small.old, small.weights), small.result
    assert len(got["methods"]) == len(MEASURED) + 18
    assert [k for k in got["methods"] if k in before["methods"]] == MEASURED
    order = list(got["methods"])
    assert order[0] == "everything positive"
    assert (
        order.index("ddpm-simplex flair")
        < order.index("cycle flair-t1")
        < order.index("mmccd flair-t2")
        < order.index("threshold t1")
    )
    for key, m in got["methods"].items():
        name = key.split()[0]
        assert m.get("taken_from") == tool.TAKEN.get(name)
        assert m.get("every") == ({"cycle": 1, "masked": 10, "mmccd": 10}.get(name))
        source = small.old[m["taken_from"]] if "taken_from" in m else json.loads(json.dumps(before))
        for kind in ("glioma", "ms"):
            assert json.loads(json.dumps(got["kinds"][kind][key])) == source["kinds"][kind][key]
        assert got["healthy"]["shares"][key] == source["healthy"]["shares"][key]


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        (
            "subjects",
            lambda r: r["subjects"]["ms"]["rows"][0].__setitem__(1, 99),
            "cyclic_phantom.json is not of the same subjects",
        ),
        ("seed", lambda r: r["seed"].update(evidence=6), "is not of the same seed"),
        ("phantom", lambda r: r.update(phantom=2), "is not of the same phantom"),
        ("fpr", lambda r: r.update(fpr=0.05), "is not of the same fpr"),
        ("healthy", lambda r: r["healthy"]["ids"].append("x"), "not of the same healthy"),
        (
            "weights",
            lambda r: r["methods"]["cycle t1-t2"].update(fingerprint="x"),
            "cycle t1-t2 in cyclic_phantom.json is not of the packaged weights",
        ),
        (
            "row",
            lambda r: r["methods"].pop("cycle t2-t1"),
            "cycle t2-t1 in cyclic_phantom.json is not of the packaged weights",
        ),
    ],
)
def test_an_earlier_result_of_others_is_refused(small, what, change, words, monkeypatch, capsys):
    old = copy.deepcopy(small.old)
    change(old["cyclic_phantom.json"])
    with pytest.raises(ValueError, match=words):
        tool.take(copy.deepcopy(small.result), old, small.weights)
    monkeypatch.setattr(tool, "earlier", lambda: old)
    got, none = tool.beside(copy.deepcopy(small.result), True, small.weights)
    assert none is None
    assert list(got["methods"]) == MEASURED
    assert list(got["kinds"]["ms"]) == MEASURED
    assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match=words):
        tool.beside(copy.deepcopy(small.result), False, small.weights)


def test_baselines_are_compared_subject_by_subject(small):
    result = tool.take(copy.deepcopy(small.result), small.old, small.weights)
    got = tool.paired(result)

    def ap(key):
        return base.rows(result, "ms", key)[0]["ap"]

    assert set(got) == {"glioma", "ms"}
    assert all(len(v) == 21 for by in got.values() for v in by.values())
    assert got["ms"]["t1"]["dae - threshold"]["ap"]["mean"] == pytest.approx(
        ap("dae t1") - ap("threshold t1"), abs=2e-5
    )
    assert got["ms"]["t2"]["vae - cycle t2-flair"]["ap"]["mean"] == pytest.approx(
        ap("vae t2") - ap("cycle t2-flair"), abs=2e-5
    )
    assert "equalised - cycle flair-t1" in got["ms"]["flair"]
    assert not [k for k in tool.paired(small.result)["ms"]["flair"] if "cycle" in k]


def test_networks_are_counted(small):
    got, size = (
        tool.networks(small.old, small.weights),
        lambda n: sum(p.numel() for p in load_detector(packaged_places(small.weights)[n]).parameters()),
    )
    assert list(got) == [*tool.BASELINES, *tool.TAKEN]
    assert all(got[n]["parameters"] == got[n]["trained"] == size(f"{n}-t2") for n in tool.BASELINES)
    assert (
        got["mmccd"]["parameters"]
        == size("mmccd-t1-t2")
        > got["mmccd"]["trained"]
        == sum(p.numel() for p in load_detector(packaged_places(small.weights)["mmccd-t1-t2"]).f.parameters())
    )
    assert {n: got[n]["evaluations"] for n in got} == {
        "ae": 1,
        "ae-dense": 1,
        "vae": 1,
        "dae": 1,
        "ddpm": 2,
        "ddpm-simplex": 2,
        "cycle": 2,
        "masked": 8,
        "mmccd": 36,
    }


@pytest.mark.parametrize("name", ["vae", "ddpm", "cycle"])
def test_evaluations_are_what_is_counted(small, name):
    d, calls = load_detector(packaged_places(small.weights)[f"{name}-flair{'-t2' * (name == 'cycle')}"]), []
    net = d.translator.nets[0] if name == "cycle" else d.net.first if name == "vae" else d.net
    net.register_forward_hook(lambda _, x, __: calls.append(len(x[0])))
    d.anomaly_map(torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32) > 0)
    assert sum(calls) == tool.count(d)


# against the healthy twin


@pytest.mark.parametrize("m", tool.MODALITIES)
def test_the_twin_lies_on_the_patients_ruler(whole, m):
    "The ruler that is read off one slice is that of all of them."
    k = whole.subject.place - 70
    centre, half = tukey(whole.p.volumes[m].T[whole.p.brain.T])
    brain, lesion = (whole.subject.batch[n] for n in ("brain", "lesion"))
    wanted = torch.where(brain, (to_slices(whole.p.twin[m][..., [k]]).float() - centre) / half, -1.0)
    torch.testing.assert_close(whole.twin[m], wanted, atol=5e-3, rtol=2e-3)
    off = (whole.subject.batch[m] - whole.twin[m]).abs()
    assert off[lesion & brain].mean() > 5 * off[brain & ~lesion].mean(), "what differs is the lesion"


def test_another_phantom_is_noticed(whole):
    with pytest.raises(ValueError, match="phantom1-glioma-s5-000 cannot be made again"):
        tool.twin_of(whole.subject, 6)


class Answer:
    "A network that gives back a mixture of what it is shown and of the twin, plus a constant."

    device = torch.device("cpu")

    def __init__(self, twin, copied, off=0.0, m="flair"):
        self.twin, self.copied, self.off, self.config = (
            twin[m],
            copied,
            off,
            SimpleNamespace(input=m, size=240, normalisation="tukey"),
        )

    def reconstruct(self, x, brain, generator=None):
        return self.copied * x + (1 - self.copied) * self.twin + self.off


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_what_is_given_back_is_known(whole, share):
    pair = whole.subject, whole.twin
    copied, contrast, inside, outside = tool.give_back(Answer(whole.twin, share), pair)
    lesion = whole.subject.batch["lesion"] & whole.subject.batch["brain"]
    assert copied == pytest.approx(share, abs=1e-5)
    assert contrast == pytest.approx(
        ((whole.subject.batch["flair"] - whole.twin["flair"])[lesion] ** 2).mean().item(), rel=1e-4
    )
    assert inside == pytest.approx(share**2 * contrast, abs=1e-6)
    assert (outside == 0) == (share == 0)
    _, _, worse, beside = tool.give_back(Answer(whole.twin, 0.0, off=0.5), pair)
    assert worse == pytest.approx(0.25, abs=1e-5)
    assert beside == pytest.approx(0.25, abs=1e-5)


def test_a_lesion_lost_in_the_pixels_says_nothing(whole):
    gone = whole.subject._replace(
        batch=whole.subject.batch | {"lesion": torch.zeros_like(whole.subject.batch["brain"])}
    )
    assert tool.give_back(Answer(whole.twin, 1.0), (gone, whole.twin)) is None


@pytest.mark.parametrize("key", ["dae flair", "ddpm t1", "cycle t2-t1"])
def test_the_reconstruction_is_what_the_detector_squares(small, key):
    d = load_detector(packaged_places(small.weights)[key.replace(" ", "-")])
    x, brain = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)), torch.ones(2, 1, 32, 32) > 0
    with torch.no_grad():
        said = tool.reconstruct(d, x, brain)
    torch.testing.assert_close((said - x) ** 2, d.anomaly_map(x, brain, torch.Generator().manual_seed(0)))


def test_copies_hold_a_row_for_each_subject(small, whole):
    pairs, names = [(whole.subject, whole.twin)] * 2, list(tool.networks_and_inputs())
    assert len(names) == 24
    assert names[:7] == [*(f"{n} flair" for n in tool.BASELINES), "cycle flair-t1"]
    assert len(list(tool.networks_and_inputs(False))) == 18
    got = tool.copies(pairs, ["ae t1", "cycle t1-t2"], weights=small.weights)
    one = tool.give_back(load_detector(packaged_places(small.weights)["ae-t1"]), pairs[0])
    assert got["rows"]["ae t1"] == [pytest.approx(one, rel=1e-4)] * 2
    assert got["subjects"] == [whole.p.id] * 2
    assert {c: s["mean"] for c, s in got["summary"]["ae t1"].items()} == pytest.approx(
        dict(zip(got["columns"], one)), rel=1e-4
    )


def test_depths_change_nothing_but_the_depth(small, whole):
    got = tool.at_depths(small.subjects, [(whole.subject, whole.twin)], weights=small.weights)
    assert [(d["detector"], d["depth"]) for d in got] == [(f"{n}-flair", t) for n in tool.DEEP for t in (100, 250, 500)]
    assert {d["noise"] for d in got} == {"gaussian", "simplex"}
    assert all(d["evaluations"] == 2 and d["summary"]["ap"]["n"] == 2 for d in got)
    assert len({d["copied"]["mean"] for d in got}) == 6
    for d in got:  # the depth that is packaged scores as the packaged one does
        if d["depth"] == 250:
            assert d["summary"]["ap"]["mean"] == pytest.approx(
                small.result["kinds"]["glioma"][d["detector"].replace("-flair", " flair")]["summary"]["ap"]["mean"],
                rel=1e-4,
            )


class Marks:
    "A method that marks the lesion as strongly as one tissue, and everything else less."

    def __init__(self, twin, tissue):
        self.like = twin["tissue"] == 1 + tool.HEALTHY.index(tissue)

    def maps(self, batch):
        return ((batch["lesion"] | self.like) & batch["brain"]).float()


@pytest.mark.parametrize("tissue", tool.TISSUES)
def test_a_tissue_that_looks_like_the_lesion_hides_it(whole, tissue):
    got = dict(zip(tool.TISSUES, tool.against(Marks(whole.twin, tissue), (whole.subject, whole.twin))))
    assert got == {t: 0.5 if t == tissue else 1.0 for t in tool.TISSUES}


def test_tissues_are_means_over_subjects(small, whole):
    pair = whole.subject, whole.twin
    got = tool.tissues([pair] * 2, ["threshold t2", "ae t2"], weights=small.weights)
    brain, lesion = (whole.subject.batch[k] for k in ("brain", "lesion"))
    csf = (whole.twin["tissue"] == 1) & brain & ~lesion
    a, b = (whole.subject.batch["t2"][m].numpy() for m in (lesion & brain, csf))
    assert got["threshold t2"]["csf"]["mean"] == pytest.approx(
        (a[:, None] > b).mean() + (a[:, None] == b).mean() / 2, abs=1e-4
    )
    assert got["ae t2"]["wm"]["n"] == 2
    few = whole.subject, whole.twin | {"tissue": torch.zeros_like(whole.twin["tissue"])}
    assert tool.against(base.method("k", "k", Threshold()), few) == [None] * 4


# the whole


def test_the_words_show_the_rows(small, whole):
    result = tool.take(copy.deepcopy(small.result), small.old, small.weights)
    pairs = [(whole.subject, whole.twin)]
    result |= {
        "copies": tool.copies(pairs, ["dae t1"], weights=small.weights),
        "depths": tool.at_depths(small.subjects, pairs, weights=small.weights),
        "tissues": tool.tissues(pairs, ["threshold t2"], weights=small.weights),
    }
    text = tool.words(result)
    assert "masked: from mmccd_phantom.json, healthy shares there on every 10th slice." in text
    assert "cycle: from cyclic_phantom.json.\n" in text
    assert f"| dae t1 | {result['copies']['summary']['dae t1']['copied']['mean']:.2f} |" in text
    assert text.count("| gaussian |") == 3
    assert "| AUROC of gliomas against | csf |" in text
    assert json.loads(base.dump(result)) == json.loads(json.dumps(result))


def test_other_stores_and_weights_are_refused(tmp_path, small):
    stores = ["--evidence", str(small.evidence.place), "--calibration", str(small.calibration.place)]
    with pytest.raises(ValueError, match="its folder does not exist"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(ValueError, match="who is none of the subjects"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="add --as-is"):
        tool.main([*stores, "--weights", str(small.weights), "--out", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="the packaged ae has no card"):
        tool.made_by("ae", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def kept():
    if not tool.RESULT.exists():
        pytest.skip("data/results/baselines_phantom.json has not been made")
    return json.loads(tool.RESULT.read_text())


def test_kept_result_is_complete_and_about_the_same_subjects(kept):
    cyclic = json.loads(base.RESULT.read_text())
    assert tool.RESULT.stat().st_size < 600_000
    assert kept["missing"] == {}
    assert "--as-is" not in kept["command"]
    assert len(kept["methods"]) == len(MEASURED) + 18
    assert kept["subjects"] == cyclic["subjects"]
    assert kept["healthy"]["ids"] == cyclic["healthy"]["ids"]
    assert kept["left_out"] == cyclic["left_out"]
    for key in (f"threshold {m}" for m in tool.MODALITIES):  # measured twice
        assert kept["methods"][key]["threshold"] == pytest.approx(cyclic["methods"][key]["threshold"], rel=1e-4)
        for kind in base.KINDS:
            assert kept["kinds"][kind][key]["summary"]["ap"]["mean"] == pytest.approx(
                cyclic["kinds"][kind][key]["summary"]["ap"]["mean"], abs=1e-4
            )
    assert [(d["detector"], d["depth"]) for d in kept["depths"]] == [
        (f"{n}-flair", t) for n in tool.DEEP for t in tool.DEPTHS
    ]
    assert {d["evaluations"] for d in kept["depths"]} == {25}
    assert kept["copies"]["subjects"] == [r[0] for r in kept["subjects"]["glioma"]["rows"]]
    assert list(kept["copies"]["rows"]) == list(tool.networks_and_inputs())
    assert list(kept["tissues"]) == [*(f"threshold {m}" for m in tool.MODALITIES), *tool.networks_and_inputs()]


def test_kept_result_follows_from_its_rows(kept):
    assert kept["paired"] == json.loads(json.dumps(tool.paired(kept)))
    assert kept["by_size"] == json.loads(json.dumps(tool.by_size(kept)))
    for kind, found in kept["kinds"].items():
        for key, got in found.items():
            for c in base.SCORES:
                assert got["summary"][c]["mean"] == pytest.approx(
                    np.mean([r[c] for r in base.rows(kept, kind, key)]), abs=2e-5
                )
    for key, shares in kept["healthy"]["shares"].items():
        assert kept["healthy"]["summary"][key]["mean"] == pytest.approx(np.mean(shares), abs=2e-5)
    for key, got in kept["copies"]["summary"].items():
        for k, c in enumerate(kept["copies"]["columns"]):
            assert got[c]["mean"] == pytest.approx(
                np.mean([r[k] for r in kept["copies"]["rows"][key] if r]), abs=2e-5, rel=1e-4
            )


def test_kept_result_is_of_the_packaged_detectors(kept):
    for key, m in kept["methods"].items():
        if key == "everything positive":
            continue
        d = load_detector(key.replace(" ", "-"))
        assert m["fingerprint"] == fingerprint(d), key
        if key.split()[0] in ("equalised", *tool.BASELINES):
            assert m["threshold"] == pytest.approx(d.threshold, rel=1e-3), (
                "the same healthy slices as the packaged threshold"
            )


def test_taken_rows_are_those_of_the_earlier_results(kept):
    old = tool.earlier()
    for key, m in kept["methods"].items():
        if "taken_from" not in m:
            continue
        r = old[m["taken_from"]]
        assert r["methods"][key].items() <= m.items() and all(
            kept["kinds"][k][key] == r["kinds"][k][key] for k in base.KINDS
        ), "make baselines_phantom.json again: an earlier result has changed"


def test_networks_are_of_one_size_and_saw_the_same(kept):
    "Parameters within a factor of two, and as many slices seen as the cycle."
    found, cycle = kept["networks"], kept["networks"]["cycle"]
    assert found == json.loads(json.dumps(tool.networks(tool.earlier())))
    for name, n in found.items():
        assert 0.5 <= n["trained"] / cycle["trained"] <= 2 and n["samples"] == cycle["samples"], name


def test_the_commands_before_are_those_that_made_it(kept, monkeypatch):
    assert kept["before"][:2] == [base.store_command(k, tool.HOME) for k in base.STORES]
    assert sum("ship_baselines" in c for c in kept["before"]) == 7
    trains, asked = [c for c in kept["before"] if c.startswith("mmccd train")], []
    assert [c.split()[2] for c in trains] == list(tool.BASELINES)
    monkeypatch.setattr(cli, "run_training", lambda a: asked.append(a) or 0)
    for c in trains:
        assert app.main(shlex.split(c)[1:]) == 0
    assert [a["steps"] for a in asked] == [kept["networks"][n]["steps"] for n in tool.BASELINES]
