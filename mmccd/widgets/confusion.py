"""A threshold on an anomaly map: what is found, missed or a false alarm, and what the scores make of it."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.patches import Patch
from torch import Tensor

from mmccd.cases.examples import lesion_slice, phantom_slices
from mmccd.detector import load_detector
from mmccd.phantom import make_phantom
from mmccd.postprocess import PostProcess
from mmccd.scoring import average_precision, counts, dice, precision, ratio, recall
from mmccd.viz import FOUND, MISSED, TRUTH, WRONG, Sheet, compare, contour, crop_to, show_image
from mmccd.widgets.layout import fixed_axes

SIZE, SPACING = 64, (3.75, 3.75, 1.0)  # pixels along a side of a slice; mm from voxel to voxel
PIXEL_ML = float(np.prod(SPACING)) / 1000
DETECTOR, SEED = "cycle-flair-t2", 404  # none of the detector's training heads has this seed
LESION_PLACES, HEALTHY_PLACES, HEALTHY_HEADS = range(60, 100, 8), range(62, 94, 4), 2
PATIENTS = {  # label: kind and index of a phantom
    "glioma": ("glioma", 3),  # the patient of lesson 3
    "large glioma": ("glioma", 5),
    "infarct": ("infarct", 3),
    "MS plaques": ("ms", 5),
}
THRESHOLDS = tuple(k / 100 for k in range(61))
EROSIONS = (0, 4, 8, 12, 16)  # mm of the brain's rim
MOST_PIXELS = 30  # the largest least piece, in pixels
MOST_HEALTHY = HEALTHY_HEADS * len(HEALTHY_PLACES)


@dataclass(frozen=True)
class ScoresState:
    """What is judged, and how.

    Attributes:
        patient: A key of `PATIENTS`.
        threshold: Map values above it are marked, one of `THRESHOLDS`.
        erode: So many mm of the brain's rim are not marked, one of `EROSIONS`.
        smallest: Pieces with fewer pixels are dropped.
        healthy: Slices of healthy heads that are judged together with the patient's one.
    """

    patient: str = "glioma"
    threshold: float = 0.2
    erode: int = 0
    smallest: int = 0
    healthy: int = 0

    @property
    def post(self) -> PostProcess:
        """What is done to the map and to its segmentation."""
        return post_process(self.erode, self.smallest)


def post_process(erode: int, smallest: int) -> PostProcess:
    """The processing of `mmccd.postprocess`, with pieces in pixels of a slice."""
    return PostProcess(erode=erode, smallest=smallest * PIXEL_ML)


def check_scores(state: ScoresState) -> ScoresState:
    """The same state.

    Raises:
        ValueError: If a field has a value that the controls cannot say.
    """
    legal = {"patient": tuple(PATIENTS), "threshold": THRESHOLDS, "erode": EROSIONS}
    for name, values in legal.items():
        if getattr(state, name) not in values:
            raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {getattr(state, name)!r}")
    for name, high in (("smallest", MOST_PIXELS), ("healthy", MOST_HEALTHY)):
        if not 0 <= getattr(state, name) <= high:
            raise ValueError(f"{name} must lie in 0 to {high}, got {getattr(state, name)}")
    return state


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices with their maps, each (n h w).

    Attributes:
        image: FLAIR, in [-1, 1] or a little beyond.
        brain: Bool.
        lesion: Bool.
        anomaly: Map of the detector, 0 outside the brain.
    """

    image: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray
    anomaly: np.ndarray


@lru_cache
def detector() -> Any:
    """The packaged cycle."""
    return load_detector(DETECTOR)


def with_maps(s: dict[str, Tensor]) -> Slices:
    """Slices of a phantom with the maps of the detector."""
    image, brain, lesion = (s[k][:, 0].numpy() for k in ("flair", "brain", "lesion"))
    return Slices(image, brain, lesion, detector().anomaly_map(s["flair"], s["brain"])[:, 0].numpy())


@lru_cache
def patient_slice(patient: str) -> Slices:
    """The patient's slice with most lesion."""
    kind, index = PATIENTS[patient]
    return with_maps(
        lesion_slice(phantom_slices(make_phantom(kind, SEED, index, LESION_PLACES, twin=False), SIZE, ("flair",)))
    )


@lru_cache
def healthy_slices() -> Slices:
    """`MOST_HEALTHY` slices of healthy heads."""
    heads = [
        phantom_slices(make_phantom("healthy", SEED, k, HEALTHY_PLACES), SIZE, ("flair",)) for k in range(HEALTHY_HEADS)
    ]
    found = [with_maps(s) for s in heads]
    return Slices(*(np.concatenate([getattr(f, k) for f in found]) for k in ("image", "brain", "lesion", "anomaly")))


@lru_cache(256)
def processed_maps(patient: str, erode: int) -> np.ndarray:
    """Maps after the erosion, (n h w): of a patient, or of the healthy slices if `patient` is ""."""
    s, post = patient_slice(patient) if patient else healthy_slices(), post_process(erode, 0)
    return np.stack([post.map(a[..., None], b[..., None], SPACING)[..., 0] for a, b in zip(s.anomaly, s.brain)])


def marked(patient: str, erode: int, smallest: int, threshold: float) -> np.ndarray:
    """Segmentation, bool (n h w), of a patient's slice, or of the healthy slices if `patient` is ""."""
    post = post_process(erode, smallest)
    maps = processed_maps(patient, erode)
    return np.stack([post.segment(a[..., None], threshold, SPACING)[..., 0] for a in maps])


def pixels(state: ScoresState, threshold: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Segmentation and truth of all brain pixels that are judged, two bool arrays (n,).

    Args:
        state: Which slices, and how they are processed.
        threshold: Instead of the state's.
    """
    rest = state.erode, state.smallest, state.threshold if threshold is None else threshold
    one, others = patient_slice(state.patient), healthy_slices()
    brains = [one.brain, others.brain[: state.healthy]]
    found = [marked(state.patient, *rest)]
    found.append(marked("", *rest)[: state.healthy] if state.healthy else others.lesion[:0])
    truths = [one.lesion, others.lesion[: state.healthy]]
    pred, truth = (np.concatenate([v[b] for v, b in zip(part, brains)]) for part in (found, truths))
    return pred, truth


@dataclass(frozen=True)
class Scores:
    """Confusion numbers in pixels, and what follows from them.

    Attributes:
        found: Lesion that is marked.
        wrong: Healthy brain that is marked.
        missed: Lesion that is not.
        left: Healthy brain that is not.
        dice: See `mmccd.scoring`, as are the next two.
        precision: Share of the marked pixels that are lesion.
        recall: Share of the lesion that is marked.
        prevalence: Share of the judged brain that is lesion.
    """

    found: int
    wrong: int
    missed: int
    left: int
    dice: float
    precision: float
    recall: float
    prevalence: float


@lru_cache(64)
def scores_of(state: ScoresState) -> Scores:
    """All numbers of a state."""
    pred, truth = pixels(state)
    tp, fp, fn = counts(pred, truth)
    values = (f(pred, truth) for f in (dice, precision, recall))
    return Scores(tp, fp, fn, truth.size - tp - fp - fn, *values, prevalence=float(truth.mean()))


@lru_cache(64)
def counts_by_threshold(patient: str, erode: int, smallest: int) -> np.ndarray:
    """Found and falsely found pixels of each slice at each of `THRESHOLDS`, int (thresholds n 2)."""
    s = patient_slice(patient) if patient else healthy_slices()
    rows = []
    for threshold in THRESHOLDS:
        m = marked(patient, erode, smallest, threshold) & s.brain
        rows.append(np.stack([(m & s.lesion).sum((1, 2)), (m & ~s.lesion).sum((1, 2))], -1))
    return np.stack(rows)


@dataclass(frozen=True, eq=False)
class Curve:
    """Scores at every one of `THRESHOLDS`.

    Attributes:
        recall: Share of the lesion that is marked.
        precision: Share of the marked pixels that are lesion.
        dice: Dice.
        oracle: The threshold with the highest Dice, the smallest if several have it; it needs the truth.
    """

    recall: np.ndarray
    precision: np.ndarray
    dice: np.ndarray
    oracle: float


@lru_cache(64)
def curve_of(patient: str, erode: int, smallest: int, healthy: int) -> Curve:
    """The precision-recall curve of a state's fields, all but its threshold."""
    s = patient_slice(patient)
    lesion = int((s.lesion & s.brain).sum())
    total = counts_by_threshold(patient, erode, smallest).sum(1)
    if healthy:
        total = total + counts_by_threshold("", erode, smallest)[:, :healthy].sum(1)
    rows = []
    for tp, fp in total.tolist():
        any_at_all = lesion + fp
        rows.append(
            [ratio(tp, b, any_at_all) for b in (lesion, tp + fp)] + [ratio(2 * tp, tp + fp + lesion, any_at_all)]
        )
    r, p, d = np.array(rows).T
    return Curve(r, p, d, THRESHOLDS[int(d.argmax())])


def curve(state: ScoresState) -> Curve:
    """The precision-recall curve on which the state's point lies."""
    return curve_of(state.patient, state.erode, state.smallest, state.healthy)


@lru_cache(64)
def map_precision(patient: str, erode: int, healthy: int) -> float:
    """Average precision of the maps after the erosion, before any piece is dropped."""
    parts = [(processed_maps(patient, erode), patient_slice(patient))]
    if healthy:
        parts.append((processed_maps("", erode)[:healthy], healthy_slices()))
    n = [len(maps) for maps, _ in parts]
    scores, truths = zip(*[(m[s.brain[:k]], s.lesion[:k][s.brain[:k]]) for (m, s), k in zip(parts, n)])
    return average_precision(np.concatenate(scores), np.concatenate(truths))


def describe_scores(state: ScoresState) -> str:
    """What the picture shows, in three sentences."""
    s, best = scores_of(state), curve(state)
    among = f" and {state.healthy} healthy slice{'s' * (state.healthy > 1)}" if state.healthy else ""
    return (
        f"Above {state.threshold:.2f}, in the patient's slice{among}: {s.found} of {s.found + s.missed} lesion pixels "
        f"are found, {s.missed} missed, and {s.wrong} healthy pixels are false alarms. Dice {s.dice:.2f}, precision "
        f"{s.precision:.2f}, recall {s.recall:.2f}; {100 * s.prevalence:.1f} % of the brain pixels are lesion. The "
        f"best Dice, {best.dice.max():.2f} at {best.oracle:.2f}, belongs to the oracle, which needs the truth."
    )


def draw_curve(ax: Any, state: ScoresState) -> None:
    """Precision against recall at all thresholds, with the state's point, the oracle, and chance."""
    c, s = curve(state), scores_of(state)
    at = THRESHOLDS.index(c.oracle)
    some = c.recall > 0  # where nothing is found, precision says nothing
    ax.plot(c.recall[some], c.precision[some], "-", color="0.55", lw=1.5)
    ax.axhline(s.prevalence, color="0.4", ls=":", lw=1.5, label="chance")
    ax.plot(c.recall[at], c.precision[at], "*", ms=15, color="white", mec="black", mew=1.2, label="oracle")
    ax.plot(s.recall, s.precision, "o", ms=8, color="black", label="your threshold")
    ax.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.04), ylim=(-0.02, 1.06))
    ax.legend(fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def draw_healthy(ax: Any, state: ScoresState) -> None:
    """The healthy slices that were added, in two rows, with their false alarms."""
    s, half = healthy_slices(), MOST_HEALTHY // 2
    box = crop_to(s.brain, 1)
    found = marked("", state.erode, state.smallest, state.threshold) if state.healthy else s.lesion
    tiles = [np.full((*v[box].shape, 3), 0.93, np.float32) for v in s.image]
    for k in range(state.healthy):
        tiles[k] = compare(np.where(s.brain[k], s.image[k], -1)[box], found[k][box], s.lesion[k][box])
    tiles = [np.pad(t, ((0, 2), (0, 2), (0, 0)), constant_values=1) for t in tiles]
    show_image(ax, np.concatenate([np.concatenate(tiles[i : i + half], 1) for i in (0, half)]))
    ax.set_title(f"{state.healthy or 'no'} healthy slice{'s' * (state.healthy != 1)} added", fontsize=12)


def draw_colours(ax: Any) -> None:
    """What the colours of a marked slice mean, below it."""
    names = {"found": FOUND, "false alarm": WRONG, "missed": MISSED}
    handles = [Patch(color=c, label=n) for n, c in names.items()] + [Patch(fc="none", ec=TRUTH, lw=2, label="truth")]
    ax.legend(handles=handles, ncols=2, fontsize=10, loc="center", frameon=False, columnspacing=1, borderpad=0)
    ax.axis("off")


def draw_scores(state: ScoresState) -> Sheet:
    """The map with the line of the threshold, the segmentation against the truth, the curve, and healthy slices."""
    sheet = Sheet(5.6, 7.5)
    s = patient_slice(state.patient)
    box, m = crop_to(s.brain, 1), marked(state.patient, state.erode, state.smallest, state.threshold)[0]
    places = (0.1, 5.0, 2.6, 2.2), (2.9, 5.0, 2.6, 2.2), (0.4, 4.8, 2.0, 0.14), (2.9, 4.5, 2.6, 0.45)
    left, right, scale, names, chart, rest = fixed_axes(sheet, *places, (0.7, 2.3, 3.0, 1.95), (0.1, 0.05, 5.4, 1.45))
    drawn = show_image(left, processed_maps(state.patient, state.erode)[0][box], 0, 0.5, "inferno", "anomaly map")
    contour(left, m[box], "white", 1.2)
    sheet.colorbar(drawn, cax=scale, orientation="horizontal", ticks=[0, 0.25, 0.5], extend="max")
    for colour, width in (("black", 5), ("white", 2.5)):
        scale.axvline(min(state.threshold, 0.5), color=colour, lw=width)
    image, truth = np.where(s.brain[0], s.image[0], -1)[box], s.lesion[0][box]
    show_image(right, compare(image, m[box], truth), title="at your threshold", truth=truth)
    draw_colours(names)
    draw_curve(chart, state)
    draw_healthy(rest, state)
    return sheet
