""""""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from mmccd.detector import load_detector
from mmccd.explorer.view import SWEEPS, View, cycle_key
from mmccd.intensity import BACKGROUND
from mmccd.masked_diffusion import MMCCD, Sampler
from mmccd.masking import MaskPlan, pool, strip
from mmccd.registry import masked_methods
from mmccd.runtime import single_thread
from mmccd.scoring import dice, precision, recall
from mmccd.slices import resize, resize_labels, to_slices

if TYPE_CHECKING:
    from mmccd.explorer.explorer import Explorer


class LRUCache(OrderedDict):
    "The latest results, as many as fit."

    def __init__(
        self,
        limit: int,  # bytes
    ):
        super().__init__()
        self.limit, self.size = limit, 0

    def fetch(self, key):  # what is kept under `key`, now the latest again
        self.move_to_end(key)
        return self[key][0]

    def keep(self, key, value, size):  # `size`: its bytes
        if key in self:
            self.size -= self.pop(key)[1]
        self[key] = value, size
        self.size += size
        while self.size > self.limit and len(self) > 1:
            self.size -= self.popitem(last=False)[1][1]
        return value

    def clear(self):
        super().clear()
        self.size = 0


def pick_explorer_device(device):  # one that is there, as for the command
    "Where networks run."
    from mmccd.runtime import pick_device

    return pick_device(device)


def masked_detector(
    weights,  # "mmccd" or "masked", those of the package; or a folder or hub name for `load_detector`
    input,  # modality, or None: the detector's own way
    target,  # modality
    device="cpu",  # where it runs
) -> MMCCD:  # calibrated where it comes so
    "The detector for one way there and back."
    ours = weights in masked_methods()
    own = load_detector(f"{weights}-{input or 'flair'}-{target or 't1'}" if ours else weights)
    if not isinstance(own, MMCCD):
        raise ValueError(
            f"the explorer shows masked cycles, and {weights} is a {type(own).__name__}: choose mmccd, masked, or a run of `mmccd train mmccd`"
        )
    if input and (own.config.input, own.config.target) != (input, target):
        own = own.for_pair(input, target)
    return own.to(device).eval()


def all_slices(
    explorer: Explorer,  # of whom
    what: str,  # a modality, "brain", "lesion" or "twin MODALITY"
    method: str,  # of normalisation
) -> torch.Tensor:  # (n 1 h w) at the networks' size, or None
    "All slices that can be shown."
    case, twin, index = explorer.subject.case, explorer.subject.twin, explorer.index
    if what in ("brain", "lesion"):
        mask = getattr(case, what)
        return None if mask is None else resize_labels(to_slices(mask, index), explorer.size)
    name, m = what.split()[0], what.split()[-1]
    if name == "twin" and (twin is None or m not in twin.volumes):
        return None
    v = case.normalised(m, method)
    if name == "twin":
        line = np.polyfit(case.volumes[m][case.brain], v[case.brain], 1)
        v = np.where(case.brain, np.polyval(line, twin.volumes[m]), BACKGROUND.get(method, -1.0)).astype(np.float32)
    return resize(to_slices(v, index), explorer.size, BACKGROUND.get(method, -1.0))


def slice_of(
    explorer: Explorer,  # of whom
    what: str,  # a modality, "brain", "lesion" or "twin"
    view: View,  # which slice
) -> torch.Tensor:  # (1 h w), or None
    "One of them."
    what = f"twin {view.input}" if what == "twin" else what
    if what not in explorer.read:
        explorer.read[what] = all_slices(explorer, what, explorer.method)
    found = explorer.read[what]
    return None if found is None else found[check_place(explorer, view.place)]


def sampler_of(
    view: View,  # what is looked at
    size: int,  # pixels along a side of the slice
) -> Sampler:
    "The sampler of a sweep, with the width and the steps of the view."
    s = SWEEPS[view.sampler]
    return replace(s, width=view.width, steps=view.steps, n_strips=max(min(s.n_strips, size // (2 * view.width)), 1))


def sweep_masks(
    explorer: Explorer,  # of whom
    view: View,  # which slice, sampler and width
) -> torch.Tensor:  # bool (n 1 h w)
    "The masks of a sweep that hide some brain."
    key = "masks", view.place, view.sampler, view.width
    if key not in explorer.small:
        s = sampler_of(view, explorer.size)
        masks = s.family(explorer.size)
        masks = masks[MaskPlan(masks, explorer.slice("brain", view)[None], 1, s.skip).hides[0]]
        explorer.small.keep(key, masks, masks.numel())
    return explorer.small.fetch(key)


def check_way(
    explorer: Explorer,  # with its networks
    view: View,  # which way
) -> tuple:  # (input, target)
    "Do the networks know it?"
    if (way := (view.input, view.target)) in explorer.ways:
        return way
    raise ValueError(
        f"these networks know no way from {way[0]} to {way[1]}: choose {', '.join(f'{i} to {t}' for i, t in explorer.ways)}"
    )


def check_place(
    explorer: Explorer,  # of whom
    place: int,  # axial slice
) -> int:  # its number among those that can be shown
    "Is there such a slice?"
    if place in explorer.places:
        return explorer.places.index(place)
    raise ValueError(
        f"{explorer.subject.case.id} has no axial slice {place} with enough brain: choose {explorer.places[0]} to {explorer.places[-1]}"
    )


def check_view(
    explorer: Explorer,  # of whom
    view: View,  # what is asked for
) -> View:  # the same
    "Refuse in one sentence what cannot be shown."
    case = explorer.subject.case
    if view.input not in case.volumes:
        raise ValueError(f"{case.id} has no {view.input}, only {', '.join(case.volumes)}: choose another input")
    check_way(explorer, view)
    check_place(explorer, view.place)
    if view.width > explorer.size or not -view.width < view.start < explorer.size:
        raise ValueError(
            f"a strip of {view.width} pixels from {view.start} on does not lie on a slice of {explorer.size}"
        )
    if view.swept > (n := len(explorer.masks(view))):
        raise ValueError(f"the sweep {view.sampler!r} has {n} masks here, not {view.swept}")
    return view


def fit_view(
    explorer: Explorer,  # of whom
    view: View,  # what was asked for, perhaps of another subject
) -> View:
    "The nearest view that exists."
    ways = [w for w in explorer.ways if w[0] in explorer.subject.case.volumes]
    input, target = min(ways, key=lambda w: (w[0] != view.input, w[1] != view.target))
    place = min(explorer.places, key=lambda p: abs(p - view.place))
    width = min(view.width, explorer.size)
    start = min(max(view.start, 1 - width), explorer.size - 1)
    view = replace(view, input=input, target=target, place=place, width=width, start=start)
    swept = min(view.swept, len(explorer.masks(view)))
    return replace(view, swept=swept, by_hand=view.by_hand or not swept)


@torch.no_grad()
def trace_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
    number: int = 0,  # of the sweep's mask, from 1; 0: the strip put down by hand
):  # `MaskedCycleTrace`, a batch of one
    "One masked cycle, computed or remembered."
    key = cycle_key(view, number)
    if key in explorer.kept:
        return explorer.kept.fetch(key)
    d, dev = explorer.detector(check_view(explorer, view)), explorer.device
    mask = explorer.masks(view)[number - 1] if number else strip(explorer.size, view.start, view.width, view.vertical)
    x, brain = (explorer.slice(what, view)[None].to(dev) for what in (view.input, "brain"))
    hook = d.f.register_forward_pre_hook(lambda *_: explorer.before(key))
    try:
        with single_thread():
            t = d.trace(
                x, mask[None].to(dev), brain, torch.Generator().manual_seed(view.seed), sampler_of(view, explorer.size)
            )
    finally:
        hook.remove()
    home = {f.name: getattr(t, f.name) for f in fields(t)}
    t = replace(
        t,
        **{
            k: [type(s)(s.t, *(p.cpu() for p in s[1:])) for s in v] if k == "steps" else v.cpu()
            for k, v in home.items()
        },
    )
    explorer.small.keep(("error", *key), t.error[0], t.error.nbytes)
    return explorer.kept.keep(key, t, t.x.nbytes * (2 * len(t.steps) + 5))


def error_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
    number: int,  # of the sweep's mask
) -> torch.Tensor:  # (1 h w)
    "The squared error of one masked cycle; small, so it is kept longer than the trace."
    key = ("error", *cycle_key(view, number))
    return explorer.small.fetch(key) if key in explorer.small else trace_of(explorer, view, number).error[0]


def map_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> torch.Tensor:  # (1 h w) >= 0; 0 where nothing was hidden yet
    "The anomaly map so far; MMCCD (6)."
    d, numbers = explorer.detector(view), range(1, view.swept + 1) or [0]
    key = ("map", *cycle_key(view, view.swept))
    if key in explorer.small:
        return explorer.small.fetch(key)
    errors = torch.stack([error_of(explorer, view, k) for k in numbers])
    masks = explorer.masks(view)[: view.swept] if view.swept else explorer.trace(view).mask
    a = pool(errors, masks, SWEEPS[view.sampler].pooling)
    if d.config.normalise_by:
        a = a / d.healthy_mean[d.pairs.index((view.input, view.target))].cpu()
    return explorer.small.keep(key, a, a.nbytes)


def scores_of(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> dict:  # "dice", "precision", "recall"; without lesion "false positives", the share of the brain above; None where the truth is not known
    "What the map so far is worth at the threshold of the view, in this slice, at the networks' size."
    brain, truth = (explorer.slice(what, view) for what in ("brain", "lesion"))
    if truth is None:
        return None
    marked = explorer.map(view)[brain] > view.threshold
    if not truth.any():
        return {"false positives": marked.float().mean().item()}
    return {f.__name__: f(marked, truth[brain]) for f in (dice, precision, recall)}


def score_words(
    scores,  # from `scores_of`
) -> str:  # one line
    "Scores to be read."
    if scores is None:
        return "the truth is not known"
    if "false positives" in scores:
        return f"{scores['false positives']:.2%} of the brain, all false alarms"
    return ", ".join(f"{k.capitalize() if k == 'dice' else k} {v:.2f}" for k, v in scores.items())


def first_view(
    explorer: Explorer,  # of whom
    **wanted,  # fields of the view
) -> View:
    "The slice with most lesion, else most brain, and a strip through the middle of it."
    steps = wanted.get("steps", SWEEPS.get(wanted.get("sampler"), SWEEPS["fast"]).steps)
    View(**{"place": explorer.places[0], "step": 1, "steps": steps} | wanted)  # refuses what cannot be
    have = [
        w
        for w in explorer.ways
        if w[0] in explorer.subject.case.volumes
        and wanted.get("input", w[0]) == w[0]
        and wanted.get("target", w[1]) == w[1]
    ]
    if not have:
        return check_view(
            explorer, View(**{"place": explorer.places[0], "step": 1, "steps": steps} | wanted)
        )  # which says what is wrong
    input, target = explorer.own if explorer.own in have else have[0]
    probe, truth = View(explorer.places[0], input, target), None
    for what in ("brain", "lesion"):
        slice_of(explorer, what, probe)
        if explorer.read[what] is not None and explorer.read[what].any():
            truth = explorer.read[what]
    place = wanted.get("place", explorer.places[int(truth.flatten(1).sum(1).argmax())])
    here = truth[check_place(explorer, place)][0]
    width = wanted.get("width", max(explorer.size // 8, 1))
    line = here.any(0 if wanted.get("vertical", True) else 1).nonzero().float()
    middle = int(line.mean()) if len(line) else explorer.size // 2
    plain = dict(
        place=place,
        input=input,
        target=target,
        width=width,
        start=middle - width // 2,
        steps=steps,
        step=steps,
        by_hand=not wanted.get("swept"),
    )
    plain["threshold"] = explorer.threshold(View(**plain)) or explorer.detector(View(**plain)).map_top
    return check_view(explorer, View(**plain | wanted))
