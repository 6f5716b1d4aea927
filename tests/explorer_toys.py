"Small networks and subjects for the tests of the explorer, and checks that several of its test files need."

import html
import re
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from toy_cases import AFFINE, write_case

from mmccd.detector import load_detector, save_detector
from mmccd.explorer.cache import LRUCache
from mmccd.explorer.subjects import file_subject
from mmccd.masked_diffusion import MMCCD
from mmccd.registry import masked_methods
from mmccd.slices import resize, resize_labels, to_slices
from mmccd.unet import UNetConfig

WIDE = AFFINE @ np.diag([3.0, 3.0, 1.0, 1.0])  # a toy brain of 36 square centimetres, in a box 84 mm long
SMALL = UNetConfig(size=32, channels=8, mults=(1, 2), blocks=1, attention=(), heads=2)
MODALITIES = ("flair", "t1", "t2")
PAIRS = list(permutations(MODALITIES, 2))
OTHERS = {  # for each field of a view another value
    "place": 80,
    "input": "t2",
    "target": "t2",
    "start": 3,
    "width": 5,
    "vertical": False,
    "sampler": "one by one",
    "steps": 3,
    "step": 1,
    "swept": 3,
    "by_hand": True,
    "seed": 1,
    "threshold": 0.2,
    "twin": True,
    "rows": 2,
}


def untrained(folder, cls=MMCCD, seed=0, **config):
    "What a run would have left, but with random weights; a network evaluation takes a few milliseconds."
    config = {"size": 32, "fov": 84.0, "modalities": MODALITIES, "unet": SMALL} | config
    d, g = cls(**config), torch.Generator().manual_seed(seed)
    for p in d.parameters():
        p.data = 0.1 * torch.randn(p.shape, generator=g)
    if d.config.normalise_by:
        d.healthy_mean.copy_(0.5 + torch.rand(d.healthy_mean.shape, generator=g))
    return save_detector(d, folder)


def toy_subject(folder, id="Ann"):
    "A toy with all modalities and a healthy twin, which passes for a phantom."
    case = write_case(folder, id, MODALITIES, affine=WIDE)
    write_case(folder / "other", "t", MODALITIES, lesion=False, affine=WIDE).rename(case / "healthy_twin")
    return replace(file_subject(case), kind="glioma", seed=404)


def one_sentence(text, *words):
    assert text
    assert "\n" not in text
    assert not re.search("Traceback|Error|Errno|Unexpected", text), text
    for w in words:
        assert str(w) in text, text


@contextmanager
def refuses(*words):
    "What happens inside is refused in one sentence that holds these words."
    with pytest.raises(ValueError, match=r"\w") as e:
        yield
    one_sentence(str(e.value), *words)


def number(text, words):
    return float(re.search(words, text)[1])


def same_tile(a, b):
    return (
        (a.title, a.bar, a.marks, a.note) == (b.title, b.bar, b.marks, b.note)
        and np.array_equal(a.pixels, b.pixels)
        and [c for _, c in a.outlines] == [c for _, c in b.outlines]
        and all(np.array_equal(m, n) for (m, _), (n, _) in zip(a.outlines, b.outlines))
    )


def counted(explorer, f):
    "The keys of all network evaluations that `f` costs."
    keys, before = [], explorer.on_evaluation
    explorer.on_evaluation = keys.append
    try:
        f()
    finally:
        explorer.on_evaluation = before
    return keys


def cached(explorer):
    "All cached results by key."
    return {k: v for cache in caches(explorer) for k, v in cache.items()}


def caches(explorer):
    return [c for c in vars(explorer).values() if isinstance(c, LRUCache)]


def slices_of(explorer, view):
    "Input, brain and lesion of a view, read a second time."
    k = explorer.slices.index[explorer.places.index(view.place)]
    case = explorer.subject.case
    return (
        resize(case.slices(view.input, [k]), explorer.size),
        resize_labels(to_slices(case.brain, [k]), explorer.size),
        resize_labels(to_slices(case.lesion, [k]), explorer.size),
    )


def own_detector(explorer, view):
    "The detector, found a second time."
    name, (input, target) = explorer.weights, (view.input, view.target)
    if name in masked_methods():
        return packaged_detector(f"{name}-{input}-{target}")
    d = load_detector(name)
    return d if (d.config.input, d.config.target) == (input, target) else d.for_pair(input, target)


@cache
def packaged_detector(name):
    return load_detector(name)


# a panel as a person uses it


def put(panel, **values):
    "Set controls, one after the other, and wait for what follows."
    for name, value in values.items():
        panel.controls[name].value = value
    panel.worker.wait()


def click(panel, name):
    panel.controls[name].click()
    panel.worker.wait()


@contextmanager
def busy(panel):
    "What happens inside happens while the worker is busy with something else; then wait until all is done."
    begun, go = threading.Event(), threading.Event()
    panel.worker.run(lambda: (begun.set(), go.wait(60)))
    assert begun.wait(60)
    yield
    go.set()
    panel.worker.wait()


def said(panel):
    "The message below the picture."
    return html.unescape(re.sub("<[^>]*>", "", panel.controls["message"].value)).strip()


def picture(panel):
    return bytes(panel.controls["picture"].value)


def in_line(panel):
    "Controls, picture and text say the same."
    c, v, e = panel.controls, panel.shown, panel.explorer
    assert {n: c[n].value for n in OTHERS if n in c} == {n: getattr(v, n) for n in OTHERS if n in c}
    assert picture(panel) == e.png(v)
    assert c["text"].value == html.escape(e.describe(v))
    assert c["kind"].value == (e.subject.kind or "from files")
    assert [float(n) for n in re.findall(r"\d+\.\d\d", c["scores"].value)] == scores_in_words(e.scores(v))
    assert c["swept"].max == len(e.masks(v))
    assert c["step"].max == len(e.trace(v, v.shown_mask).steps)
    assert (c["place"].min, c["place"].max) == (e.places[0], e.places[-1])
    assert c["subject_seed"].disabled == (not e.subject.kind)
    assert c["twin"].disabled == (e.subject.twin is None)
    assert c["start"].min == 1 - v.width
    assert set(c["target"].options) == {t for i, t in e.pairs if i == v.input}
    assert set(c["input"].options) <= set(e.subject.case.volumes)


def scores_in_words(scores):
    if scores is None:
        return []
    if "false positives" in scores:
        return [pytest.approx(100 * scores["false positives"], abs=0.0051)]
    return [pytest.approx(x, abs=0.006) for x in scores.values()]
