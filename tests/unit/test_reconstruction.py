"What all reconstructing detectors have in common: the properties of every detector, their settings and their labels."

import json
import math
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from detector_laws import check_detector, maps, toy_slices
from toy_reconstructions import (
    KINDS,
    METHOD,
    NARROW,
    SMALL,
    THREE,
    Toy,
    awake,
    every,
    seeded,
)

from mmccd.baselines import (
    AE,
    DAE,
    AEConfig,
    DAEConfig,
    Equalised,
    Reconstruction,
    draw_modalities,
)
from mmccd.detector import calibrate, fingerprint, load_detector
from mmccd.masked_diffusion import MMCCD
from mmccd.partial_diffusion import DDPM, DDPMConfig
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.translate import fill_background
from mmccd.unet import UNetConfig, count_parameters


@pytest.fixture(autouse=True)
def use_single_thread():
    with single_thread():
        yield


@pytest.mark.parametrize(("kind", "modalities"), [(k, THREE if i % 2 else ()) for i, k in enumerate(KINDS)])
def test_properties(kind, modalities, tmp_path):
    check_detector(awake(kind, modalities), tmp_path / "d")


@pytest.mark.parametrize("input", ["flair", "t1"])
def test_properties_of_ranks(input, tmp_path):
    check_detector(Equalised(input=input), tmp_path / "d")


@every
def test_kept_and_loaded(kind, tmp_path):
    "No two of these are taken for one another (that the maps are the same, the properties above check)."
    d = calibrate(awake(kind, THREE), *toy_slices(2), data="toy")
    again = load_detector(d.save_pretrained(tmp_path / "d"))
    marks = {fingerprint(x) for x in (d, d.for_modality("t1"), awake(kind, THREE, seed=1))}
    assert fingerprint(again) == fingerprint(d)
    assert len(marks) == 3
    assert isinstance(again.config.unet, UNetConfig)


def test_no_two_kinds_are_alike():
    x, brain = toy_slices(1)
    assert len({fingerprint(awake(k)) for k in KINDS}) == len(KINDS)
    assert all(issubclass(cls, Reconstruction) for cls, _ in KINDS.values())
    assert not issubclass(Equalised, Reconstruction)
    found = [maps(awake(k), x, brain) for k in KINDS]
    assert all(not torch.allclose(a, b) for i, a in enumerate(found) for b in found[:i])


@every
def test_the_map_is_what_does_not_come_back(kind):
    x, brain = toy_slices(2)
    d = awake(kind)
    with torch.no_grad():
        back = d.reconstruct(x, brain, seeded())
    assert (back[~brain] == -1).all()
    assert torch.equal(maps(d, x, brain), torch.where(brain, (back - x) ** 2, 0.0))
    d._reconstruct = lambda x, brain, label, generator: x
    assert not maps(d, x, brain).any()


def test_a_subclass_says_how_to_reconstruct():
    with pytest.raises(NotImplementedError, match="a subclass says how"):
        maps(Reconstruction(size=32), *toy_slices(1))


@every
def test_the_background_has_no_influence(kind):
    d, (x, brain), b = awake(kind), toy_slices(2), Toy(4).d
    wild = torch.where(brain, x, 9.0)
    assert torch.equal(maps(d, wild, brain), maps(d, x, brain))

    def loss(x):
        return d.loss(b | {"flair": x}, seeded()).item()

    assert (
        loss(torch.where(b["brain"], b["flair"], 9.0))
        == loss(b["flair"])
        != loss(fill_background(b["flair"] + 0.5, b["brain"]))
    )


@every
def test_the_map_hangs_on_slice_and_seed_only(kind):
    "Not on what was asked before, nor on how far its generator has got."
    d, (x, brain) = awake(kind), toy_slices(2)
    first, g = maps(d, x, brain, 3), seeded(3)
    for _ in range(2):
        torch.testing.assert_close(d.anomaly_map(x, brain, g), first, rtol=0, atol=0)
    torch.testing.assert_close(maps(d, x[[1, 0, 1]], brain[[1, 0, 1]], 3), first[[1, 0, 1]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(d.anomaly_map(x, brain), maps(d, x, brain, 0), rtol=0, atol=0)  # without one: seed 0
    assert torch.equal(maps(d, x, brain, 4), first) != kind.startswith("ddpm")


# ---- several modalities
@every
def test_for_modality(kind, tmp_path):
    d, (x, brain) = calibrate(awake(kind, THREE), *toy_slices(2), data="toy"), toy_slices(2)
    if kind == "itermask":
        d.config = replace(d.config, tau=0.0)  # measured for each modality; not taken along
    other = d.for_modality("t2")
    assert type(other) is type(d)
    assert other.config == replace(d.config, input="t2")
    assert other.calibration is None
    assert not other.training
    assert all(torch.equal(v, d.state_dict()[k]) for k, v in other.state_dict().items())
    assert not torch.equal(maps(other, x, brain), maps(d, x, brain))  # the label is another
    kept = maps(d, x, brain)
    assert torch.equal(maps(load_detector(other.save_pretrained(tmp_path / "o")).for_modality("flair"), x, brain), kept)
    for p in other.parameters():
        p.data += 1
    assert torch.equal(maps(d, x, brain), kept)  # they share nothing in memory
    with pytest.raises(ValueError, match="t1ce is not among the modalities of the network, flair, t1, t2"):
        d.for_modality("t1ce")


@every
def test_a_modality_that_was_not_learned(kind):
    "A network for FLAIR must not pass for one for T1."
    with pytest.raises(ValueError, match="t1 is not among the modalities of the network, flair"):
        awake(kind).for_modality("t1")
    assert awake(kind).for_modality("flair").config == awake(kind).config


@every
def test_the_label_is_the_place_of_its_modality(kind):
    "Sorted: the order in which they were named makes no difference."
    x, brain = toy_slices(2)
    assert torch.equal(
        maps(awake(kind, ("t2", "t1", "flair"), input="t2"), x, brain), maps(awake(kind, THREE, input="t2"), x, brain)
    )
    assert [awake(kind, THREE, input=m).label(x).tolist() for m in THREE] == [[k] * 2 for k in range(3)]
    assert awake(kind).label(x) is None


def test_draw_modalities():
    b, config = Toy(90).d, AEConfig(size=32, modalities=THREE, unet=NARROW)
    wild = {k: v if k == "brain" else torch.where(b["brain"], v, 9.0) for k, v in b.items()}
    x, label = draw_modalities(wild, config, seeded())
    assert all(torch.equal(x[i], b[THREE[k]][i]) for i, k in enumerate(label.tolist()))
    assert (label.bincount(minlength=3) - 30).abs().max() < 5 * math.sqrt(90 * 2 / 9)
    assert not torch.equal(label, draw_modalities(b, config, seeded(1))[1])
    x, label = draw_modalities(wild, AEConfig(size=32, input="t2", unet=NARROW), seeded())
    assert torch.equal(x, b["t2"])
    assert label is None


@every
def test_the_label_of_training_is_that_of_the_test(kind):
    "All slices of a batch in T1: the network hears the same number from `loss` and from the map."
    d, b, heard = awake(kind, ("t1",), input="t1"), Toy(4).d, []
    seen = d.net.label.register_forward_hook(lambda m, given, out: heard.append(given[0]))
    d.loss(b, seeded())
    maps(d, b["t1"], b["brain"])
    seen.remove()
    assert heard
    assert all((h == 0).all() for h in heard)
    d, heard = awake(kind, THREE, input="t2"), []
    d.net.label.register_forward_hook(lambda m, given, out: heard.append(given[0]))
    maps(d, b["t2"], b["brain"])
    assert heard
    assert all((h == 2).all() for h in heard)


# ---- configs
NORMAL = "The method of normalisation is 'odd', expected one of"
WRONG = [
    (dict(input="t2", modalities=("t1", "flair")), "t2 is not among the modalities of the network, flair, t1"),
    (dict(normalisation="odd"), NORMAL),
    (dict(size=60), "size must be a multiple of .* got 60"),
    (dict(unet="huge"), "unknown size 'huge': choose paper or tiny"),
    (dict(modalities=("flair", "flair")), "modalities must be different ones, got flair, flair"),
]


def refuses(make, say):
    with pytest.raises(ValueError, match=say) as e:
        make()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("cls", [AE, DAE, DDPM])
@pytest.mark.parametrize(("fields", "say"), WRONG)
def test_wrong_configs(cls, fields, say):
    refuses(lambda: cls(**fields), say)


@pytest.mark.parametrize(
    ("cls", "fields", "say"),
    [
        (AE, dict(latent=0), "latent must be a whole number, at least 1, got 0"),
        (AE, dict(sigma=-0.1), "sigma must not be negative, got -0.1"),
        (AE, dict(sigma=float("nan")), "sigma must not be negative, got nan"),
        (DAE, dict(grid=0), "grid must be a whole number from 1 to 64, got 0"),
        (DAE, dict(grid=33, size=32), "grid must be a whole number from 1 to 32, got 33"),
        (DAE, dict(sigma=0.0), "sigma must be positive, got 0.0"),
        (DDPM, dict(schedule="square"), "unknown schedule 'square': choose linear, cosine"),
        (DDPM, dict(prediction="odd"), "unknown prediction 'odd': choose x0, eps, v"),
        (DDPM, dict(noise="pink"), "unknown noise 'pink': choose gaussian, simplex"),
        (DDPM, dict(depth=0), "depth must lie between 1 and 1000, got 0"),
        (DDPM, dict(depth=101, steps=100), "depth must lie between 1 and 100, got 101"),
        (DDPM, dict(n_steps=0), "n_steps must lie between 1 and the depth, 250, got 0"),
        (DDPM, dict(n_steps=11, depth=10), "n_steps must lie between 1 and the depth, 10, got 11"),
        (Equalised, dict(input="pd"), "input must be one of flair, t1, t1ce, t2, got 'pd'"),
        (Equalised, dict(normalisation="odd"), NORMAL),
    ],
)
def test_wrong_fields(cls, fields, say):
    refuses(lambda: cls(**fields), say)


@every
def test_slices_of_another_size(kind):
    for b, s in ((1, 16), (2, 64)):
        x, brain = toy_slices(b, s, s)
        refuses(partial(maps, awake(kind), x, brain), f"must be 1 x 32 x 32, got 1 x {s} x {s}")


@pytest.mark.parametrize(
    "config",
    [
        AEConfig(),
        AEConfig(unet="paper", size=128, modalities=["t2", "flair"], dense=True, sigma=0.1),
        DAEConfig(unet=replace(SMALL, dropout=0.2), size=32),
        DDPMConfig(unet=dict(channels=8, mults=[1, 2], attention=[]), modalities=THREE),
    ],
)
def test_config_through_json(config):
    again = type(config)(**json.loads(json.dumps(asdict(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert isinstance(again.unet, UNetConfig)
    assert isinstance(again.modalities, tuple)
    assert (again.unet.size, again.unet.labels, again.unet.time) == (
        config.size,
        len(config.modalities),
        isinstance(config, DDPMConfig),
    )


@pytest.mark.parametrize(("size", "unet"), [(32, "tiny"), (64, "tiny"), (128, "tiny"), (64, "paper")])
@pytest.mark.parametrize("method", METHOD)
def test_sizes_by_name(method, size, unet):
    d = new_detector(method, size=size, unet=unet, n_steps=1)
    x, brain = toy_slices(1, size, size)
    assert d.config.unet.size == size
    assert maps(d, x, brain)[brain].any()


def test_as_many_parameters_as_the_one_to_compare_with():
    "At the paper's size the diffusion model is that of MMCCD, less one input channel; none is ten times another."
    count = {m: count_parameters(new_detector(m, size=128, unet="paper")) for m in METHOD}
    assert count["ddpm"] == count["ddpm-simplex"] == count_parameters(MMCCD(size=128, unet="paper").f) - 9 * 32
    assert max(count.values()) < 2 * min(count.values())
