"The U-Net: what its parts promise, at sizes that a chapter does not show."

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmccd.unet import (
    Attention,
    ResBlock,
    Stage,
    UNet,
    UNetConfig,
    count_parameters,
    preset,
    resample,
    sinusoids,
    stages,
)

SMALL = dict(size=16, channels=8, mults=(1, 2), blocks=1, attention=(8,), heads=2)


def awake(net, seed=0):
    "No weight is zero any more."
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return net.eval()


def test_the_published_size():
    assert count_parameters(UNet(preset("paper", c_in=2, time=True))) == 6_600_257


@settings(max_examples=15, deadline=None)
@given(
    channels=st.sampled_from([4, 12, 20]),
    mults=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    blocks=st.integers(1, 2),
    stem=st.sampled_from([1, 2]),
    c_in=st.integers(1, 2),
    time=st.booleans(),
    labels=st.sampled_from([0, 3]),
)
def test_any_shape_of_network(channels, mults, blocks, stem, c_in, time, labels):
    config = UNetConfig(
        size=16,
        c_in=c_in,
        c_out=2,
        channels=channels,
        mults=mults,
        blocks=blocks,
        attention=(4, 8),
        heads=2,
        stem=stem,
        time=time,
        labels=labels,
        dropout=0.2,
    )
    net = awake(UNet(config))
    given = {"t": torch.tensor([3, 70])} if time else {}
    if labels:
        given["label"] = torch.tensor([0, 2])
    x = torch.randn(2, c_in, 16, 16)
    y = net(x, **given)
    assert y.shape == (2, 2, 16, 16)
    assert y.isfinite().all()
    assert torch.equal(y, net(x, **given))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())  # every weight takes part
    torch.testing.assert_close(net(x[:1], **{k: v[:1] for k, v in given.items()}), y[:1], rtol=1e-4, atol=1e-4)
    down, _middle, up = stages(config)
    assert sum(s.factor == 0.5 for s in down) == sum(s.factor == 2 for s in up) == len(mults) - 1
    assert up[-1].size == 16 // stem


def test_untrained_is_zero():
    assert not UNet(**SMALL)(torch.randn(1, 1, 16, 16)).any()


def test_time_and_label_matter():
    net = awake(UNet(**SMALL, time=True, labels=4))
    x = torch.randn(1, 1, 16, 16)
    out = {(t, k): net(x, torch.tensor([t]), torch.tensor([k])) for t in (0, 500) for k in (0, 3)}
    kept = list(out.values())
    assert all(not torch.allclose(a, b) for i, a in enumerate(kept) for b in kept[:i])


def test_attention_stands_where_asked():
    def places(**kw):
        return [isinstance(s.attention, Attention) for way in stages(UNetConfig(**SMALL | kw)) for s in way]

    assert not any(places(attention=()))
    assert sum(places()) == 1 + 1 + 2
    with pytest.raises(ValueError, match="multiple of the 3 heads"):
        Attention(8, 3)


@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_a_block_begins_as_a_change_of_size(factor):
    x = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ResBlock(4, 4, factor=factor)(x), resample(x, factor), rtol=0, atol=0)
    assert Stage(UNetConfig(**SMALL), 4, 6, 8, factor)(x).shape == (2, 6, 8 * factor, 8 * factor)


def test_config_survives_json():
    config = preset("tiny", labels=6)
    again = UNetConfig(**json.loads(json.dumps(asdict(config))))
    assert again == config
    assert hash(again) == hash(config)
    assert UNet(again).state_dict().keys() == UNet(config).state_dict().keys()


def test_sinusoids():
    s = sinusoids(torch.tensor([0.0, 5.0]), 8)
    assert s.shape == (2, 8)
    assert torch.equal(s[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.testing.assert_close(
        s[1, [0, 4]],
        torch.tensor([5.0]).cos().repeat(2) * torch.tensor([1, 0]) + torch.tensor([5.0]).sin() * torch.tensor([0, 1]),
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UNet(**SMALL | dict(size=18, mults=(1, 1, 1))), "multiple of 4"),
        (lambda: preset("large"), "'large'"),
        (lambda: UNet(**SMALL)(torch.zeros(1, 2, 16, 16)), "1 x 16 x 16, got 2 x 16 x 16"),
        (lambda: UNet(**SMALL)(torch.zeros(1, 1, 16, 16), torch.zeros(1)), "takes no t"),
        (lambda: UNet(**SMALL, labels=2)(torch.zeros(1, 1, 16, 16)), "needs label"),
    ],
)
def test_one_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_it_learns_where_things_are():
    "A stack of small filters cannot tell left from right; a U-Net with zero padding and coarse scales can."
    torch.manual_seed(0)
    net, x = UNet(**SMALL), torch.zeros(4, 1, 16, 16)
    y = torch.cat([torch.full((4, 1, 16, 8), -1.0), torch.full((4, 1, 16, 8), 1.0)], 3)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(60):
        loss = nn.functional.mse_loss(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
