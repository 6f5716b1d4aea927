"""What the explorer computes: masked cycles, the anomaly map they fill, and its scores. No pictures, no widgets."""

from collections.abc import Callable
from dataclasses import fields, replace

import torch

from mmccd.error_map import ErrorMapConfig
from mmccd.explorer.cache import LRUCache
from mmccd.explorer.images import SubjectSlices
from mmccd.explorer.networks import load_masked_detector, sampler_for
from mmccd.explorer.subjects import Subject, phantom_subject
from mmccd.explorer.view import SWEEPS, CycleKey, View, cycle_key
from mmccd.masked_diffusion import MMCCD, MaskedCycleTrace
from mmccd.masking import MaskPlan, pool, strip
from mmccd.runtime import pick_device, single_thread
from mmccd.scoring import dice, precision, recall
from mmccd.translate import fill_background


class Engine:
    """Masked cycles of one subject, computed when they are needed and cached.

    Attributes:
        subject: The subject.
        slices: Its slices at the networks' size.
        weights: Where the networks come from, as in `load_masked_detector`.
        device: Where they run.
        size: Pixels along a side of their slices.
        pairs: (input, target) pairs of modalities that they know.
        default_pair: The pair of the detector as it was saved.
        on_evaluation: Called with the key of the masked cycle before each evaluation of the network that predicts the
            target. It may raise to stop the computation.
        traces: Cached `MaskedCycleTrace`s.
        maps: Cached masks, errors and maps, which are small and outlive the traces.
    """

    def __init__(
        self, subject: Subject | None = None, weights: str = "mmccd", device: str = "cpu", megabytes: float = 128
    ) -> None:
        """Load the networks.

        Args:
            subject: The subject; None makes a phantom with a glioma.
            weights: As in `load_masked_detector`.
            device: "auto", "cpu", "cuda" or "mps".
            megabytes: Limit of all cached results together.

        Raises:
            ValueError: If there is no such device, the weights have no masked cycle, or the subject cannot be shown.
        """
        self.weights, self.device = weights, pick_device(device)
        self.on_evaluation: Callable[[CycleKey], object] = lambda key: None
        self.traces, self.maps = LRUCache(int(megabytes * 3 * 2**18)), LRUCache(int(megabytes * 2**18))
        self._detectors: dict[tuple[str, str], MMCCD] = {}
        detector = load_masked_detector(weights, None, None)
        c = detector.config
        self.size, self._fov, self._normalisation = c.size, c.fov, c.normalisation
        self.default_pair = c.input, c.target
        self.pairs: list[tuple[str, str]] = list(detector.pairs) if c.modalities else [self.default_pair]
        self.set_subject(subject or phantom_subject())

    def set_subject(self, subject: Subject) -> None:
        """Show another subject; ValueError where it cannot be shown, and then the one before stays."""
        self.slices = SubjectSlices(subject, [i for i, _ in self.pairs], self.size, self._normalisation, self._fov)
        self.subject = subject
        self.clear_cache()

    def set_device(self, device: str) -> None:
        """Run the networks elsewhere from now on; ValueError where there is no such device."""
        self.device = pick_device(device)
        self._detectors.clear()
        self.clear_cache()

    def clear_cache(self) -> None:
        """Drop all computed results."""
        self.traces.clear()
        self.maps.clear()

    @property
    def places(self) -> list[int]:
        """Places of the axial slices that can be shown."""
        return self.slices.places

    def check_pair(self, view: View) -> tuple[str, str]:
        """(input, target) of `view`; ValueError where the networks do not know this pair."""
        if (pair := (view.input, view.target)) in self.pairs:
            return pair
        known = ", ".join(f"{i} to {t}" for i, t in self.pairs)
        raise ValueError(f"these networks cannot predict {view.target} from {view.input}: choose {known}")

    def check_view(self, view: View) -> View:
        """Return `view`, or raise a ValueError that says in one sentence why this subject has no such view."""
        case = self.subject.case
        if view.input not in case.volumes:
            raise ValueError(f"{case.id} has no {view.input}, only {', '.join(case.volumes)}: choose another input")
        self.check_pair(view)
        self.slices.number(view.place)
        if view.width > self.size or not -view.width < view.start < self.size:
            raise ValueError(
                f"a strip of {view.width} pixels from {view.start} on does not lie on a slice of {self.size}"
            )
        if view.swept > (n := len(self.masks(view))):
            raise ValueError(f"the sweep {view.sampler!r} has {n} masks here, not {view.swept}")
        return view

    def detector(self, view: View) -> MMCCD:
        """The detector for the pair of modalities of `view`."""
        pair = self.check_pair(view)
        if pair not in self._detectors:
            self._detectors[pair] = load_masked_detector(self.weights, *pair, self.device)
        return self._detectors[pair]

    def slice(self, name: str, view: View) -> torch.Tensor | None:
        """One slice at the networks' size, (1 h w).

        Args:
            name: A modality, "brain", "lesion", or "twin" for the healthy twin's image of the view's input.
            view: The view that says which slice.

        Returns:
            The image or the bool mask; None for an unknown lesion or a missing twin.
        """
        s = self.slices
        if name in ("brain", "lesion"):
            found = s.brain if name == "brain" else s.lesion
        else:
            found = s.twin(view.input) if name == "twin" else s.image(name)
        return None if found is None else found[s.number(view.place)]

    def brain(self, view: View) -> torch.Tensor:
        """The brain of a slice, bool (1 h w)."""
        return self.slices.brain[self.slices.number(view.place)]

    def masks(self, view: View) -> torch.Tensor:
        """Masks of the sweep, those that hide some brain, bool (n 1 h w)."""
        key = "masks", view.place, view.sampler, view.width
        if key not in self.maps:
            s = sampler_for(view, self.size)
            masks = s.family(self.size)
            masks = masks[MaskPlan(masks, self.brain(view)[None], 1, s.skip).hides[0]]
            self.maps.store(key, masks, masks.numel())
        return self.maps.fetch(key)

    def trace(self, view: View, number: int = 0) -> MaskedCycleTrace:
        """One masked cycle with all its steps, a batch of one, on the CPU.

        Args:
            view: The view.
            number: Number of the sweep's mask, from 1; 0 for the strip placed by hand.

        Raises:
            ValueError: If there is no such view.
        """
        key = cycle_key(view, number)
        if key in self.traces:
            return self.traces.fetch(key)
        trace = to_cpu(self._run_cycle(view, number, key))
        for what in self._pooled(view):
            image = getattr(trace, what)
            self.maps.store((what, *key), image[0], image.nbytes)
        return self.traces.store(key, trace, trace.x.nbytes * (2 * len(trace.steps) + 5))

    @torch.no_grad()
    def _run_cycle(self, view: View, number: int, key: CycleKey) -> MaskedCycleTrace:
        detector = self.detector(self.check_view(view))
        mask = self.masks(view)[number - 1] if number else strip(self.size, view.start, view.width, view.vertical)
        image = self.slices.image(view.input)[self.slices.number(view.place)]
        x, brain, hidden = (p[None].to(self.device) for p in (image, self.brain(view), mask))
        noise = torch.Generator().manual_seed(view.seed)
        hook = detector.f.register_forward_pre_hook(lambda *_: self.on_evaluation(key))
        try:
            with single_thread():  # networks this small gain little from more, and the browser needs the other cores
                return detector.trace(x, hidden, brain, noise, sampler_for(view, self.size))
        finally:
            hook.remove()

    def _pooled(self, view: View) -> tuple[str, ...]:
        """What of a masked cycle the map needs."""
        plain = self.detector(view).config.error == ErrorMapConfig()
        return ("error",) if plain else ("error", "reconstruction")

    def image_of(self, view: View, number: int, what: str = "error") -> torch.Tensor:
        """The "error" or "reconstruction" of the masked cycle under one mask, (1 h w); cached longer than its trace."""
        key = (what, *cycle_key(view, number))
        return self.maps.fetch(key) if key in self.maps else getattr(self.trace(view, number), what)[0]

    @torch.no_grad()
    def map(self, view: View) -> torch.Tensor:
        """The anomaly map from the masks done so far, (1 h w), 0 where nothing was hidden yet; MMCCD (6)."""
        detector, numbers = self.detector(view), range(1, view.swept + 1) or [0]
        key = ("map", *cycle_key(view, view.swept))
        if key in self.maps:
            return self.maps.fetch(key)
        errors, *backs = (torch.stack([self.image_of(view, k, what) for k in numbers]) for what in self._pooled(view))
        masks, brain = self.masks(view)[: view.swept] if view.swept else self.trace(view).mask, self.brain(view)
        anomaly, hidden = pool(errors, masks, SWEEPS[view.sampler].pooling), masks.any(0) & brain
        if backs:
            visible = self.slices.image(view.input)[self.slices.number(view.place)]
            back = torch.where(hidden, pool(backs[0], masks), fill_background(visible, brain))
            parts = (part[None].to(self.device) for part in (anomaly, back, brain))
            anomaly = torch.where(hidden, detector.error_map(*parts)[0].cpu(), 0.0)
        if detector.config.normalise_by:
            anomaly = anomaly / detector.healthy_mean[detector.pairs.index((view.input, view.target))].cpu()
        return self.maps.store(key, anomaly, anomaly.nbytes)

    def threshold(self, view: View) -> float | None:
        """The calibrated threshold for the pair of modalities, or None."""
        return (self.detector(view).calibration or {}).get("threshold")

    def scores(self, view: View) -> dict[str, float] | None:
        """Scores of the map at the threshold of `view`, in this slice, at the networks' size.

        Returns:
            "dice", "precision" and "recall"; in a slice without lesion "false positives", the share of the brain above
            the threshold; None where the lesion is unknown.
        """
        brain, truth = self.brain(view), self.slice("lesion", view)
        if truth is None:
            return None
        found = self.map(view)[brain] > view.threshold
        if not truth.any():
            return {"false positives": found.float().mean().item()}
        return {f.__name__: f(found, truth[brain]) for f in (dice, precision, recall)}


def to_cpu(trace: MaskedCycleTrace) -> MaskedCycleTrace:
    """The same trace with all tensors on the CPU."""
    steps = [type(s)(s.t, *(p.cpu() for p in s[1:])) for s in trace.steps]
    tensors = {f.name: getattr(trace, f.name).cpu() for f in fields(trace) if f.name != "steps"}
    return replace(trace, steps=steps, **tensors)
