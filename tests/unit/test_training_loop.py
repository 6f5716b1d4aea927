"""The pieces of the training loop: what counts, in which order, at which rate, until when, and what is averaged."""

from dataclasses import replace

import pytest
import torch
from toy_training import QUICK, Toy, detector

from mmccd.runtime import derive_seed
from mmccd.training_loop import (
    OPTIONS,
    PRESETS,
    Batches,
    ToyCycle,
    TrainConfig,
    batch_indices,
    converged,
    ema_average,
    lr_factor,
    make_config,
    masked_mean,
    validate,
)

EASY = replace(QUICK, steps=200, validate_every=5, patience=2, progress=0.6)


def test_background_changes_neither_loss_nor_gradient():
    d, batch = detector(ToyCycle), Toy(4).batch([0, 1, 2, 3])

    def other_background(v):
        return torch.where(batch["brain"], v, 7 * torch.randn_like(v)) if v.is_floating_point() else v

    found = []
    for b in (batch, {k: other_background(v) for k, v in batch.items()}):
        d.zero_grad()
        loss = d.loss(b)
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in d.parameters()]))
    assert found[0][0] == found[1][0]
    assert all(map(torch.equal, found[0][1], found[1][1]))


def test_masked_mean():
    brain = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    brain[0, :, :2], brain[1, :, :1] = True, True
    error = torch.where(brain, torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), 1e9)
    assert masked_mean(error, brain) == 2  # slices count alike, whatever the size of the brain
    assert masked_mean(error, brain & False) == 0
    assert masked_mean(error.expand(2, 3, 4, 4), brain) == 2


def test_order_is_a_function_of_seed_and_step():
    c = TrainConfig(batch_size=4, seed=3)
    order = [i for step in range(15) for i in batch_indices(10, c, step)]
    for epoch in range(6):
        assert sorted(order[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert order[:10] != order[10:20]
    assert batch_indices(10, c, 7) == order[28:32]
    assert batch_indices(10, replace(c, seed=4), 7) != order[28:32]
    late = list(Batches(Toy(10), replace(c, steps=9, accumulate=2), 7))
    assert [(s, p) for s, p, _ in late] == [(7, 0), (7, 1), (8, 0), (8, 1)]
    assert all("lesion" not in b and len(b["brain"]) == 2 for _, _, b in late)


def test_seeds_differ_and_never_change():
    seeds = {derive_seed(a, w, s) for a in range(5) for w in ("step", "order") for s in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, "step", 2) == 2738419977555684275  # or old runs could not be repeated


def test_learning_rate():
    c = TrainConfig(steps=100, warmup=10)
    f = [lr_factor(s, c) for s in range(100)]
    assert f[0] > 0
    assert f == sorted(f[:11]) + sorted(f[11:], reverse=True)
    assert max(f) == f[10] == 1
    assert f[-1] < 1e-3
    assert lr_factor(0, TrainConfig(steps=1, warmup=0)) == 1
    assert lr_factor(5, TrainConfig(steps=3, warmup=9)) < 1


def test_level_rate_with_patience():
    factors = [lr_factor(s, EASY) for s in range(EASY.steps)]
    assert factors[:3] == [0.25, 0.5, 0.75]
    assert set(factors[3:]) == {1.0}


def test_ema():
    a, b = torch.zeros(3), torch.ones(3)
    assert torch.equal(ema_average(a, b, 5, 0.0), b)
    torch.testing.assert_close(ema_average(a, b, 10**6, 0.9), torch.full((3,), 0.1))
    assert ema_average(a, b, 1, 0.999)[0] > 0.8  # a young average forgets fast


def test_accumulation_is_the_same_batch():
    d, data = detector(ToyCycle), Toy()

    def gradient(k):
        d.zero_grad()
        for _, _, batch in Batches(data, TrainConfig(steps=1, batch_size=12, accumulate=k)):
            (d.loss(batch) / k).backward()
        return torch.cat([p.grad.flatten() for p in d.parameters()])

    for k in (2, 3, 12):
        torch.testing.assert_close(gradient(k), gradient(1), rtol=1e-4, atol=1e-6)


def test_validation_is_always_the_same():
    d, val = detector(), Toy(8, seed=1)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    found = [validate(d, val, replace(QUICK, batch_size=b)) for b in (8, 8)]
    assert found[0] == found[1]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert d.training
    quiet = [validate(detector(ToyCycle), val, replace(QUICK, batch_size=b))["val_loss"] for b in (8, 3)]
    assert abs(quiet[0] - quiet[1]) < 1e-6  # each slice counts alike in whatever batch


@pytest.mark.parametrize(
    ("losses", "patience", "progress", "ends"),
    [
        ([3, 2, 1], 1, 0.1, False),
        ([3, 2, 1.9], 1, 0.1, True),
        ([3, 2, 1.7], 1, 0.1, False),
        ([2, 1.9, 1.81], 2, 0.1, True),
        ([2, 1.9, 1.79], 2, 0.1, False),
        ([1, 5, 5], 2, 0, True),
        ([1, 5], 2, 0, False),
        ([1], 0, 0.5, False),
        ([1, 1, 1, 1], 0, 0.5, False),
        ([], 1, 0.5, False),
        ([2, 1, 1.5, 1.5, 0.5], 2, 0.1, False),
    ],
)
def test_converged(losses, patience, progress, ends):
    assert converged(losses, TrainConfig(patience=patience, progress=progress)) is ends


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(steps=0), "steps must be at least 1"),
        (dict(lr=-1.0), "lr must be a positive number, got -1.0"),
        (dict(lr=float("nan")), "lr must be"),
        (dict(ema=1.0), "ema must lie below 1"),
        (dict(ema=-0.1), "ema must not be negative"),
        (dict(precision="8"), "32, bf16, fp16"),
        (dict(batch_size=6, accumulate=4), "a batch of 6 slices cannot be worked off in 4 equal pieces"),
        (dict(warmup=-1), "warmup"),
        (dict(clip=0.0), "clip must be positive, got 0.0"),
        (dict(fpr=1.5), "fpr must lie between 0 and 1, got 1.5"),
        (dict(fpr=0.0), "fpr must lie between 0 and 1, got 0.0"),
        (dict(steps=2.5), "steps must be a whole number, got 2.5"),
        (dict(batch_size=8.0), "batch_size must be a whole"),
        (dict(warmup=1.5), "warmup must be a whole"),
        (dict(seed=0.5), "seed must be a whole"),
        (dict(patience=-1), "patience must not be negative"),
        (dict(patience=1.5), "patience must be a whole number, got 1.5"),
        (dict(progress=1.0), r"progress must lie in \[0, 1\), got 1.0"),
        (dict(progress=-0.1), "progress must lie in"),
        (dict(progress=float("nan")), "progress must lie in"),
    ],
)
def test_bad_settings(changes, words):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**changes)


def test_presets():
    paper = PRESETS["paper"]
    assert (paper.lr, paper.batch_size, paper.steps) == (1e-4, 32, 100_000)
    for name, preset in PRESETS.items():
        assert make_config(name) == preset
    assert make_config("paper", lr=None, steps=7) == replace(paper, steps=7, warmup=0)
    with pytest.raises(ValueError, match="unknown preset 'huge': choose smoke, tiny, paper"):
        make_config("huge")


def test_a_short_run_is_not_all_warm_up():
    assert [make_config("tiny", steps=n).warmup for n in (5, 60, 1000, 2000, 5000)] == [0, 6, 100, 100, 100]
    assert make_config("tiny", steps=60, warmup=9).warmup == 9
    assert make_config("tiny", lr=0.1).warmup == 100


def test_options_are_those_of_the_command():
    "The settings that have an option, and the options of `mmccd train` that are settings, are the same."
    from dataclasses import fields

    from mmccd.cli.train import TrainOptions

    settings = {f.name for f in fields(TrainConfig)}
    assert set(OPTIONS) == settings & {f.name for f in fields(TrainOptions)}
