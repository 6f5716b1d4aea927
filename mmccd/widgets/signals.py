"""Brightness of one tissue in three modalities, and whether a translator that knows healthy brains only must fail."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mmccd.scanner import HEALTHY, RELAXATION, sample_acquisition, tissue_signal
from mmccd.viz import OKABE_ITO, Sheet
from mmccd.widgets.layout import fixed_axes

MODALITIES = ("t1", "t2", "flair")
NAMES = {
    "csf": "fluid",
    "cortex": "grey matter",
    "deep": "deep grey matter",
    "wm": "white matter",
    "blood": "blood vessels",
    "oedema": "swelling in a glioma",
    "enhancing": "growing part of a glioma",
    "necrosis": "dead core of a glioma",
    "plaque": "MS plaque",
    "infarct": "infarct",
}
DOT, CROSS = {"ms": 9, "mec": "black", "mew": 0.6, "ls": ""}, {"ms": 11}
COLOURS = dict(zip(HEALTHY, ("blue", "orange", "yellow", "green", "purple")))  # fluid, grey and white as in lesson 3
TABLE = {k: v[1] for k, v in RELAXATION.items()}  # at 3 T: T1 ms, T2 ms, proton density

# Scanner settings by field of `PhysicsState`: smallest, largest, step, in ms. TE is always shorter than TR, TI + TE is
# too, and TI stays above the null of white matter, since brightness is given as a multiple of white matter's.
SETTINGS = {
    "t1_tr": (200, 3000, 25),
    "t1_te": (5, 120, 1),
    "t2_tr": (1000, 8000, 100),
    "t2_te": (10, 200, 2),
    "flair_tr": (5000, 12000, 100),
    "flair_te": (50, 200, 2),
    "flair_ti": (1200, 3600, 10),
}


def ladder(low: float, high: float, factor: float, extra: tuple[int, ...]) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, each about `factor` times the one before, and the `extra` ones among them."""
    found, value = set(extra), low
    while value <= high:
        found.add(round(value))
        value *= factor
    return tuple(sorted(found))


T1_MS = ladder(200, 4500, 1.06, tuple(v[0] for v in TABLE.values()))
ALIKE = (0.01, 0.3)  # smallest and largest difference that counts as none; noise is 0.01 to 0.03 in the phantom
T2_MS = ladder(20, 2200, 1.06, tuple(v[1] for v in TABLE.values()))


class Middle:
    """Stands for a random generator, and draws the middle of every range."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return (low + high) / 2


@lru_cache
def usual_settings() -> dict[str, int]:
    """The middle of what `sample_acquisition` draws, by field of `PhysicsState`, rounded to steps of the sliders."""
    drawn: Any = sample_acquisition(Middle())  # type: ignore[arg-type]
    found = {}
    for name, (low, _, step) in SETTINGS.items():
        modality, setting = name.split("_")
        found[name] = low + step * round((float(drawn[modality][setting.upper()]) - low) / step)
    return found


@dataclass(frozen=True)
class PhysicsState:
    """One tissue, the scanner, and a question.

    Attributes:
        t1: Longitudinal relaxation time of the tissue, ms.
        t2: Transverse relaxation time of the tissue, ms.
        pd: Its proton density, water = 1.
        t1_tr: Repetition time of the T1-weighted image, ms; the others likewise.
        t1_te: Echo time.
        t2_tr: Repetition time of the T2-weighted image.
        t2_te: Echo time.
        flair_tr: Repetition time of FLAIR.
        flair_te: Echo time.
        flair_ti: Inversion time.
        input: Modality that a translator is given.
        target: Modality that it predicts.
        alike: Two tissues look alike if their brightness differs by no more than this, white matter = 1.
    """

    t1: int
    t2: int
    pd: float
    t1_tr: int
    t1_te: int
    t2_tr: int
    t2_te: int
    flair_tr: int
    flair_te: int
    flair_ti: int
    input: str = "t1"
    target: str = "t2"
    alike: float = 0.03

    @property
    def tissue(self) -> str:
        """The tissue of the phantom that has these numbers at 3 T, or ""."""
        return next((k for k, v in TABLE.items() if v == (self.t1, self.t2, self.pd)), "")

    @property
    def settings(self) -> dict[str, dict[str, int]]:
        """TR, TE and TI by modality, as `mmccd.scanner` wants them."""
        found: dict[str, dict[str, int]] = {m: {} for m in MODALITIES}
        for name in SETTINGS:
            modality, setting = name.split("_")
            found[modality][setting.upper()] = getattr(self, name)
        return found


def physics_state(tissue: str = "oedema", input: str = "t1", target: str = "t2", alike: float = 0.03) -> PhysicsState:
    """A tissue of the phantom in the usual scanner.

    Raises:
        ValueError: If there is no such tissue or modality, or the modalities are the same.
    """
    if tissue not in TABLE:
        raise ValueError(f"unknown tissue {tissue!r}; choose one of {', '.join(TABLE)}")
    for modality in (input, target):
        if modality not in MODALITIES:
            raise ValueError(f"unknown modality {modality!r}; choose one of {', '.join(MODALITIES)}")
    if input == target:
        raise ValueError(f"input and target must be two modalities, but both are {input!r}")
    if not ALIKE[0] <= alike <= ALIKE[1]:
        raise ValueError(f"`alike` must lie in {ALIKE[0]} to {ALIKE[1]}, got {alike}")
    t1, t2, pd = TABLE[tissue]
    return PhysicsState(t1, t2, pd, **usual_settings(), input=input, target=target, alike=alike)


def with_usual_scanner(state: PhysicsState) -> PhysicsState:
    """The same tissue and question in the usual scanner."""
    rest = (state.t1, state.t2, state.pd), {"input": state.input, "target": state.target, "alike": state.alike}
    return PhysicsState(*rest[0], **usual_settings(), **rest[1])


def fit_physics(state: PhysicsState) -> PhysicsState:
    """The same state with two different modalities."""
    if state.input != state.target:
        return state
    return replace(state, target=next(m for m in ("t2", "t1") if m != state.input))


@lru_cache(64)
def brightness(state: PhysicsState) -> dict[str, dict[str, float]]:
    """Brightness by tissue, "this" for the state's own, then by modality; white matter = 1 in each modality."""
    relaxation = {k: TABLE[k] for k in HEALTHY} | {"this": (state.t1, state.t2, state.pd)}
    white = {m: tissue_signal(m, "wm", relaxation, state.settings) for m in MODALITIES}
    return {
        k: {m: float(tissue_signal(m, k, relaxation, state.settings) / white[m]) for m in MODALITIES}
        for k in relaxation
    }


@dataclass(frozen=True)
class Verdict:
    """What the brightness of healthy tissues says about a translation.

    The rule: let the look-alikes be the healthy tissues that are as bright as this tissue in the input, within
    `PhysicsState.alike`. Without a look-alike nothing is known ("unknown"). If a look-alike is as bright in the
    target too, translation need not fail ("passes"). Otherwise it must ("fails"): whichever look-alike the translator
    takes it for, the error is at least `gap`. Only pure tissues are compared: no mixtures, no guess between two
    look-alikes, and not the place in the head, from which a real network may tell more.

    Attributes:
        kind: "fails", "passes" or "unknown".
        lookalikes: Healthy tissues as bright in the input, the nearest in the target first.
        nearest: The healthy tissue that the sentence compares with.
        gap: Distance to it: in the target, or in the input if there is no look-alike.
    """

    kind: str
    lookalikes: tuple[str, ...]
    nearest: str
    gap: float


def verdict(state: PhysicsState) -> Verdict:
    """Whether a translator that has learned on healthy tissues only must fail on this one; the rule is `Verdict`'s."""
    found = brightness(state)
    away = {m: {k: abs(found[k][m] - found["this"][m]) for k in HEALTHY} for m in (state.input, state.target)}
    near = [k for k in HEALTHY if away[state.input][k] <= state.alike]
    if not near:
        nearest = min(HEALTHY, key=away[state.input].__getitem__)
        return Verdict("unknown", (), nearest, away[state.input][nearest])
    near.sort(key=away[state.target].__getitem__)
    gap = away[state.target][near[0]]
    return Verdict("passes" if gap <= state.alike else "fails", tuple(near), near[0], gap)


def label(modality: str) -> str:
    """A modality as people write it."""
    return modality.upper()


def describe_physics(state: PhysicsState) -> str:
    """What the picture shows and what follows for a translator, in two or three sentences."""
    found, v, a, b = brightness(state), verdict(state), label(state.input), label(state.target)
    this, other, name = found["this"], found[v.nearest], NAMES[v.nearest]
    pair = {m: f"{this[m]:.2f} against {other[m]:.2f}" for m in MODALITIES}
    if v.kind == "unknown":
        return (
            f"No rule: in {a} no healthy tissue is as bright as this one ({this[state.input]:.2f}; the nearest is "
            f"{name} with {other[state.input]:.2f}). Healthy brains never showed which {b} brightness goes with it, so "
            "the prediction may be right or wrong."
        )
    if v.kind == "passes":
        return (
            f"Need not fail: in {a} this tissue is as bright as {name} ({pair[state.input]}), and in {b} too "
            f"({pair[state.target]}). A translator that takes it for {name} is about right, so its error does "
            "not show the tissue."
        )
    others = [NAMES[k] for k in v.lookalikes[1:]]
    also = f" (and as {' and '.join(others)})" if others else ""
    wrong = (
        f"whichever it takes it for, its {b} is wrong by at least"
        if others
        else f"if it takes it for {name}, its {b} is wrong by"
    )
    return (
        f"Must fail: in {a} this tissue is as bright as {name}{also}: {pair[state.input]}. In {b} it is not: "
        f"{pair[state.target]}. From its {a} brightness a translator that knows healthy brains only cannot tell them "
        f"apart; {wrong} {v.gap:.2f}."
    )


def draw_strips(ax: Any, state: PhysicsState) -> None:
    """A line for each modality with the healthy tissues and this one on it."""
    found, row = brightness(state), MODALITIES.index(state.input)
    at, top = found["this"][state.input], max(max(v.values()) for v in found.values())
    ax.hlines(range(3), -top, 2 * top, color="0.8", lw=1, zorder=0)
    ax.fill_between([at - state.alike, at + state.alike], row - 0.4, row + 0.4, color="0.8", zorder=-1)
    for k in HEALTHY:
        ax.plot([found[k][m] for m in MODALITIES], range(3), "o", color=OKABE_ITO[COLOURS[k]], **DOT)
    ax.plot([found["this"][m] for m in MODALITIES], range(3), "X", color=OKABE_ITO["vermillion"], **DOT | CROSS)
    ax.set(xlim=(-0.05 * top, 1.05 * top), ylim=(2.5, -0.5), yticks=range(3), yticklabels=map(label, MODALITIES))
    ax.set_xlabel("brightness (white matter = 1)")


def draw_scatter(ax: Any, state: PhysicsState) -> None:
    """The input's brightness to the right, the target's upwards; where translation must fail, an arrow of the error."""
    found, v, a, b = brightness(state), verdict(state), state.input, state.target
    x, y = found["this"][a], found["this"][b]
    ax.axvspan(x - state.alike, x + state.alike, color="0.8", zorder=-1, label="alike in the input")
    ax.plot(x, y, "X", color=OKABE_ITO["vermillion"], label="this tissue", **DOT | CROSS)
    for k in HEALTHY:
        ax.plot(found[k][a], found[k][b], "o", color=OKABE_ITO[COLOURS[k]], label=NAMES[k], **DOT)
    if v.kind == "fails":
        guess = found[v.nearest][b]
        ax.annotate("", (x, y), (x, guess), arrowprops={"arrowstyle": "<->", "shrinkA": 7, "shrinkB": 8, "lw": 1.5})
        ax.text(
            x,
            (y + guess) / 2,
            f"  error {v.gap:.2f}  ",
            va="center",
            ha="left" if x < 0.6 * top_of(a, found) else "right",
        )
    wide, high = top_of(a, found), top_of(b, found)
    ax.set(xlim=(-0.06 * wide, 1.12 * wide), ylim=(-0.06 * high, 1.12 * high))
    ax.set(xlabel=f"{label(a)} brightness (input)", ylabel=f"{label(b)} brightness (target)")


def top_of(modality: str, found: dict[str, dict[str, float]]) -> float:
    """The largest brightness in a modality."""
    return max(v[modality] for v in found.values())


def draw_physics(state: PhysicsState) -> Sheet:
    """Three strips of brightness, and input against target."""
    sheet = Sheet(5.6, 6.2)
    strips, scatter = fixed_axes(sheet, (0.7, 4.65, 4.7, 1.45), (0.7, 1.45, 4.7, 2.5))
    draw_strips(strips, state)
    draw_scatter(scatter, state)
    sheet.legend(*scatter.get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=10, frameon=False)
    return sheet
