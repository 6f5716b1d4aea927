"Translation: which pairs there are, what may have a say, and what the loss is."

import itertools

import pytest
import torch
from detector_laws import toy_slices

from mmccd.training_loop import masked_mean
from mmccd.translate import Translator, directed_pairs, fill_background, translation_loss
from mmccd.unet import UNetConfig

SMALL = UNetConfig(size=16, channels=8, mults=(1, 2), blocks=1, attention=(8,), heads=2)
THREE = ("flair", "t1", "t2")


def awake(net, seed=0):
    "No weight is zero any more: a new network says 0 everywhere, and keeps most laws by that."
    g = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    return net.eval()


def toy(b=6):
    "A batch of three modalities, each a function of the first."
    x, brain = toy_slices(b, 16, 16)
    return {
        "flair": x,
        "t1": fill_background(torch.sin(3 * x), brain),
        "t2": fill_background(-x, brain),
        "brain": brain,
    }


# ---- pairs
@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_ordered_pair_once_in_alphabetical_order(n):
    names = ["t2", "flair", "t1ce", "t1"][:n]
    pairs = directed_pairs(names)
    assert len(pairs) == len(set(pairs)) == n * (n - 1)
    assert list(pairs) == sorted(pairs)
    assert {a for p in pairs for a in p} == set(names)
    assert all(directed_pairs(order) == pairs for order in itertools.permutations(names))


@pytest.mark.parametrize(
    ("names", "word"), [((), "none"), (("t1",), "t1"), (("t1", "t1"), "t1, t1"), (("t1", "t2", "t1"), "t1, t2, t1")]
)
def test_too_few_modalities(names, word):
    with pytest.raises(ValueError, match=f"two or more different modalities, got {word}$"):
        directed_pairs(names)


@pytest.mark.parametrize("shared", [False, True])
def test_weights_fit_whatever_the_order(shared):
    "Those of (flair, t2) are those of (t2, flair), pair for pair."
    a, b = awake(Translator(("flair", "t2"), SMALL, shared)), Translator(("t2", "flair"), SMALL, shared).eval()
    b.load_state_dict(a.state_dict())
    batch = toy(2)
    for source, target in (("flair", "t2"), ("t2", "flair")):
        assert torch.equal(
            a(batch[source], batch["brain"], source, target), b(batch[source], batch["brain"], source, target)
        )


@pytest.mark.parametrize(("shared", "networks", "labels"), [(True, 1, 6), (False, 6, 0)])
def test_networks(shared, networks, labels):
    t = Translator(THREE, SMALL, shared)
    assert len(t.nets) == networks
    assert {n.config.labels for n in t.nets} == {labels}
    assert SMALL.labels == 0


@pytest.mark.parametrize(("source", "target"), [("flair", "t1ce"), ("t1ce", "flair"), ("t1", "t1")])
def test_unknown_pair(source, target):
    t, batch = Translator(("flair", "t1"), SMALL), toy(1)
    with pytest.raises(
        ValueError, match=f"^this network cannot go from {source} to {target}; it knows flair to t1, t1 to flair$"
    ):
        t(batch["flair"], batch["brain"], source, target)


# ---- what has a say
@pytest.mark.parametrize("shared", [False, True])
def test_the_background_has_no_influence(shared):
    t, batch = awake(Translator(THREE, SMALL, shared)), toy(3)
    x, brain = batch["flair"], batch["brain"]
    y = t(x, brain, "flair", "t2")
    for noise in (7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), torch.full_like(x, torch.nan)):
        assert torch.equal(t(torch.where(brain, x, noise), brain, "flair", "t2"), y)
    assert (y[~brain] == -1).all()
    assert y[brain].unique().numel() > brain.sum() // 2
    assert not torch.equal(t(torch.where(brain, -x, x), brain, "flair", "t2"), y)  # what is inside has


@pytest.mark.parametrize("shared", [False, True])
def test_another_pair_is_another_function(shared):
    batch = toy(2)
    new, t = (make(Translator(THREE, SMALL, shared)) for make in (torch.nn.Module.eval, awake))

    def found(net):
        return [net(batch["flair"], batch["brain"], *p) for p in net.pairs]

    assert all(
        torch.equal(y, torch.where(batch["brain"], 0.0, -1.0)) for y in found(new)
    )  # the last layer of a new network is zero
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(found(t), 2))


def test_paint_leaves_the_brain_alone():
    x, brain = toy_slices(2, 16, 16)
    kept = x.clone()
    y = fill_background(x + 1, brain)
    assert torch.equal(y[brain], (kept + 1)[brain])
    assert (y[~brain] == -1).all()
    assert torch.equal(x, kept)


# ---- the loss
def cheat(t, batch, monkeypatch):
    "Networks that know the answer."
    if t.shared:

        def run(x, k):
            return torch.stack([batch[t.pairs[int(j)][1]][i] for i, j in enumerate(k)])

        monkeypatch.setattr(t, "translate_labelled", run)
    else:
        for net, (_, target) in zip(t.nets, t.pairs):
            monkeypatch.setattr(net, "forward", lambda x, target=target: batch[target])
    return t


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shared", [False, True])
def test_an_oracle_has_no_loss(shared, monkeypatch):
    t, batch = awake(Translator(THREE, SMALL, shared)), toy()
    assert translation_loss(t, batch, seeded(0)) > 0
    cheat(t, batch, monkeypatch)
    for seed in range(5):
        assert translation_loss(t, batch, seeded(seed)) == 0
    wrong = batch | {"t2": batch["t2"] + 1}  # one modality of three is off by one: two of six pairs
    if not shared:
        torch.testing.assert_close(translation_loss(t, wrong), torch.tensor(2 / 6))


def test_the_loss_of_two_networks_is_the_mean_over_pairs_and_slices():
    t, batch = awake(Translator(("flair", "t2"), SMALL)), toy()
    errors = [masked_mean((t(batch[a], batch["brain"], a, b) - batch[b]) ** 2, batch["brain"]) for a, b in t.pairs]
    torch.testing.assert_close(translation_loss(t, batch), sum(errors) / 2)
    small = batch | {
        "brain": batch["brain"] & (torch.arange(6).view(6, 1, 1, 1) < 3) | (torch.arange(256).view(1, 1, 16, 16) == 136)
    }  # three slices of one pixel
    each = [translation_loss(t, {k: v[i : i + 1] for k, v in small.items()}) for i in range(6)]
    torch.testing.assert_close(
        translation_loss(t, small), torch.stack(each).mean(), rtol=1e-4, atol=1e-5
    )  # slices count alike, whatever the size of the brain


def test_a_shared_network_learns_one_drawn_pair_a_slice(monkeypatch):
    t, batch, drawn = awake(Translator(THREE, SMALL, True)), toy(), []
    run = t.translate_labelled
    monkeypatch.setattr(t, "translate_labelled", lambda x, k: drawn.append((x, k)) or run(x, k))
    losses = [translation_loss(t, batch, seeded(s)).item() for s in (0, 0, 1)]
    (x, k), (_, again), (_, other) = drawn
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(k, again)
    assert not torch.equal(k, other)
    assert all(torch.equal(x[i], batch[t.pairs[j][0]][i]) for i, j in enumerate(k.tolist()))
    each = [
        masked_mean((t(batch[a][i : i + 1], m := batch["brain"][i : i + 1], a, b) - batch[b][i : i + 1]) ** 2, m)
        for i, (a, b) in enumerate(t.pairs[j] for j in k.tolist())
    ]
    assert abs(sum(each).item() / 6 - losses[0]) < 1e-4 * losses[0]


def test_all_pairs_are_drawn_alike(monkeypatch):
    t, n = Translator(THREE, SMALL, True), torch.zeros(6)
    batch = {k: v[:1].expand(600, 1, 16, 16) for k, v in toy(1).items()}

    def run(x, k):
        n.add_(torch.bincount(k, minlength=6))
        return x

    monkeypatch.setattr(t, "translate_labelled", run)
    translation_loss(t, batch, seeded(0))
    assert n.sum() == 600
    assert (abs(n - 100) < 40).all()


def test_the_random_state_is_left_alone():
    t, batch, state = awake(Translator(THREE, SMALL, True)), toy(), torch.random.get_rng_state()
    translation_loss(t, batch, seeded(0))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("shared", [False, True])
def test_every_weight_learns(shared):
    t, batch = awake(Translator(THREE, SMALL, shared)), toy(24)
    translation_loss(t, batch, seeded(0)).backward()
    assert all(p.grad is not None and p.grad.any() for p in t.parameters())
    if shared:
        assert (t.nets[0].label.weight.grad.abs().sum(1) > 0).all()  # of each pair


@pytest.mark.parametrize("shared", [False, True])
def test_the_background_changes_neither_loss_nor_gradient(shared):
    t, batch = awake(Translator(THREE, SMALL, shared)), toy()
    found = []
    for b in (batch, {k: v if k == "brain" else torch.where(batch["brain"], v, 9.0) for k, v in batch.items()}):
        t.zero_grad()
        translation_loss(t, b, seeded(3)).backward()
        found.append([p.grad.clone() for p in t.parameters()])
    assert all(map(torch.equal, *found))
