"""The three widgets of the lessons."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, ClassVar

from mmccd.explorer.controls import Controls, make_widget, set_slider
from mmccd.widgets.confusion import (
    EROSIONS,
    MOST_HEALTHY,
    MOST_PIXELS,
    PATIENTS,
    THRESHOLDS,
    ScoresState,
    check_scores,
    curve,
    describe_scores,
    draw_scores,
    map_precision,
    scores_of,
)
from mmccd.widgets.coverage import (
    FAMILIES,
    MOST_STEPS,
    WIDTHS,
    MasksState,
    check_masks,
    describe_masks,
    draw_masks,
    fit_masks,
    legal_steps,
    make_masks,
    most_at_once,
    most_dealt,
)
from mmccd.widgets.panel import LessonPanel
from mmccd.widgets.signals import (
    ALIKE,
    MODALITIES,
    NAMES,
    SETTINGS,
    T1_MS,
    T2_MS,
    TABLE,
    PhysicsState,
    describe_physics,
    draw_physics,
    fit_physics,
    label,
    physics_state,
    with_usual_scanner,
)

BUTTON = {"flex": "0 0 auto", "width": "auto"}
OWN = "your own numbers"  # what the choice of a tissue says where the numbers are no tissue's


class PhysicsPanel(LessonPanel[PhysicsState]):
    """A tissue, a scanner, and whether translation must fail."""

    name, buttons = "physics", ("usual",)
    fit = staticmethod(fit_physics)
    draw = staticmethod(draw_physics)
    describe = staticmethod(describe_physics)
    groups: ClassVar[dict[str, Sequence[str]]] = {
        "The tissue": ("tissue", "t1", "t2", "pd"),
        "A translator": ("input", "target", "alike"),
        "The scanner": (*SETTINGS, "usual"),
    }

    def make_controls(self) -> Controls:
        """See `LessonPanel`."""
        make, modalities = make_widget, [(label(m), m) for m in MODALITIES]
        found = {
            "tissue": make("Dropdown", "tissue", "tissue", options=[*((NAMES[k], k) for k in TABLE), (OWN, "")]),
            "t1": make("SelectionSlider", "t1", "its T1", options=[(f"{v} ms", v) for v in T1_MS]),
            "t2": make("SelectionSlider", "t2", "its T2", options=[(f"{v} ms", v) for v in T2_MS]),
            "pd": make("FloatSlider", "pd", "proton density", min=0.5, max=1, step=0.01, readout_format=".2f"),
            "input": make("Dropdown", "input", "is given", options=modalities),
            "target": make("Dropdown", "target", "and predicts", options=modalities),
            "alike": make(
                "FloatSlider", "alike", "alike within", min=ALIKE[0], max=ALIKE[1], step=0.01, readout_format=".2f"
            ),
            "usual": make("Button", "usual", "Usual scanner settings", layout=BUTTON),
        }
        for name, (low, high, step) in SETTINGS.items():
            modality, setting = name.split("_")
            text, start = f"{label(modality)}: {setting.upper()} (ms)", getattr(self.state, name)
            found[name] = make("IntSlider", name, text, min=low, max=high, step=step, value=start, readout_format="d")
        found["usual"].on_click(lambda _: self.show(with_usual_scanner(self.state)))
        return found

    def read(self) -> PhysicsState:
        """See `LessonPanel`; another tissue in the list brings its three numbers."""
        c = self.controls
        values = {f.name: c[f.name].value for f in fields(PhysicsState)}
        chosen = c["tissue"].value
        if chosen and chosen != self.state.tissue:
            values |= dict(zip(("t1", "t2", "pd"), TABLE[chosen]))
        return PhysicsState(**values | {"pd": round(values["pd"], 2), "alike": round(values["alike"], 2)})

    def _on_change(self, change: Any = None) -> None:
        """A control was moved; where it is a number of the tissue, the name in the list must not overrule it."""
        if self._muted:
            return
        if change["owner"] in (self.controls[n] for n in ("t1", "t2", "pd")):
            with self._without_changes():
                self.controls["tissue"].value = ""
        self.show(self.read())

    def put(self, state: PhysicsState) -> None:
        """See `LessonPanel`."""
        c = self.controls
        targets = [(label(m), m) for m in MODALITIES if m != state.input]
        if tuple(c["target"].options) != tuple(targets):
            c["target"].options = targets
        for f in fields(state):
            c[f.name].value = getattr(state, f.name)
        c["tissue"].value = state.tissue


class MasksPanel(LessonPanel[MasksState]):
    """A family of masks, mask by mask, with its coverage and its cost."""

    name, buttons = "masks", ("play",)
    fit = staticmethod(fit_masks)
    draw = staticmethod(draw_masks)
    describe = staticmethod(describe_masks)
    groups: ClassVar[dict[str, Sequence[str]]] = {
        "The family": ("family", "width", "step", "at_once", "dealt"),
        "One mask after the other": ("shown", "play"),
        "The cost": ("steps",),
    }

    def make_controls(self) -> Controls:
        """See `LessonPanel`."""
        from ipywidgets import jslink

        make, n = make_widget, len(make_masks(self.state))
        found = {
            "family": make("Dropdown", "family", "masks", options=[(v, k) for k, v in FAMILIES.items()]),
            "width": make("IntSlider", "width", "width (pixels)", min=WIDTHS[0], max=WIDTHS[1]),
            "step": make("Dropdown", "step", "next strip after", options=[("1 pixel", 1)]),
            "at_once": make("IntSlider", "at_once", "strips at once", min=1, max=most_at_once(self.state.width)),
            "dealt": make("IntSlider", "dealt", "masks", min=1, max=most_dealt(self.state.width)),
            "shown": make("IntSlider", "shown", "mask shown", min=1, max=n, value=self.state.shown),
            "steps": make("IntSlider", "steps", "diffusion steps", min=1, max=MOST_STEPS),
            "play": make("Play", "play", min=1, max=n, value=self.state.shown, interval=300),
        }
        jslink((found["play"], "value"), (found["shown"], "value"))
        return found

    def read(self) -> MasksState:
        """See `LessonPanel`."""
        return MasksState(**{f.name: self.controls[f.name].value for f in fields(MasksState)})

    def put(self, state: MasksState) -> None:
        """See `LessonPanel`; only what the family has is to be seen."""
        c, n, legal = self.controls, len(make_masks(state)), legal_steps(state.family, state.width)
        options = [(f"{s} pixel{'s' * (s > 1)}", s) for s in legal or (state.step,)]
        if tuple(c["step"].options) != tuple(options):
            c["step"].options = options
        for name in ("family", "width", "step", "steps"):
            c[name].value = getattr(state, name)
        set_slider(c["at_once"], 1, most_at_once(state.width), state.at_once)
        set_slider(c["dealt"], 1, most_dealt(state.width), state.dealt)
        for name in ("play", "shown"):  # first the one that plays, which would else put the slider back
            set_slider(c[name], 1, n, state.shown)
        for name, seen in {
            "step": bool(legal),
            "at_once": state.family == "disjoint",
            "dealt": state.family == "blocks",
        }.items():
            c[name].layout.display = None if seen else "none"


class ScoresPanel(LessonPanel[ScoresState]):
    """A threshold on a map, what it marks, and what the scores make of it."""

    name, buttons = "scores", ("oracle",)
    draw = staticmethod(draw_scores)
    describe = staticmethod(describe_scores)
    groups: ClassVar[dict[str, Sequence[str]]] = {
        "The threshold": ("threshold", "oracle"),
        "Before and after it": ("erode", "smallest"),
        "Who is judged": ("patient", "healthy"),
    }

    def make_controls(self) -> Controls:
        """See `LessonPanel`."""
        make, pieces = make_widget, [(f"{n} pixel{'s' * (n != 1)}", n) for n in range(MOST_PIXELS + 1)]
        found = {
            "threshold": make(
                "FloatSlider", "threshold", "threshold", min=0, max=THRESHOLDS[-1], step=0.01, readout_format=".2f"
            ),
            "oracle": make("Button", "oracle", "Go to the oracle (it uses the truth)", layout=BUTTON),
            "erode": make("SelectionSlider", "erode", "leave out rim", options=[(f"{v} mm", v) for v in EROSIONS]),
            "smallest": make("SelectionSlider", "smallest", "smallest piece", options=pieces),
            "patient": make("Dropdown", "patient", "patient", options=list(PATIENTS)),
            "healthy": make("IntSlider", "healthy", "healthy slices", min=0, max=MOST_HEALTHY),
        }
        found["oracle"].on_click(lambda _: self.show(replace(self.state, threshold=curve(self.state).oracle)))
        return found

    def read(self) -> ScoresState:
        """See `LessonPanel`."""
        values = {f.name: self.controls[f.name].value for f in fields(ScoresState)}
        return ScoresState(**values | {"threshold": THRESHOLDS[round(100 * values["threshold"])]})

    def put(self, state: ScoresState) -> None:
        """See `LessonPanel`."""
        for f in fields(state):
            self.controls[f.name].value = getattr(state, f.name)

    def numbers(self, state: ScoresState) -> str:
        """See `LessonPanel`."""
        s = scores_of(state)
        rows = "".join(
            f"<tr><th>{name}</th><td>{yes}</td><td>{no}</td></tr>"
            for name, yes, no in (("lesion", s.found, s.missed), ("healthy", s.wrong, s.left))
        )
        table = f"<table><tr><th>pixels</th><th>marked</th><th>not marked</th></tr>{rows}</table>"
        return f"{table}Average precision of the map: {map_precision(state.patient, state.erode, state.healthy):.2f}"


def physics(tissue: str = "oedema", input: str = "t1", target: str = "t2", alike: float = 0.03) -> PhysicsPanel:
    """Open the widget on brightness: a tissue's T1, T2 and density, a scanner's TR, TE and TI, and a translator.

    Args:
        tissue: A key of `mmccd.scanner.RELAXATION`.
        input: Modality that the translator is given: "t1", "t2" or "flair".
        target: Modality that it predicts.
        alike: Brightness differences up to this count as none; white matter = 1.

    Raises:
        ImportError: If ipywidgets is not installed.
        ValueError: If there is no such tissue or modality.
    """
    return PhysicsPanel(physics_state(tissue, input, target, alike))


def masks(**state: Any) -> MasksPanel:
    """Open the widget on masks: what a family hides, how evenly, and what it costs.

    Args:
        **state: Fields of `mmccd.widgets.coverage.MasksState`.

    Raises:
        ImportError: If ipywidgets is not installed.
        ValueError: If there is no such family, or a number lies outside of its range.
    """
    return MasksPanel(check_masks(MasksState(**state)))


def scores(**state: Any) -> ScoresPanel:
    """Open the widget on scores: a threshold, what it finds, and what Dice, precision and recall make of it.

    Args:
        **state: Fields of `mmccd.widgets.confusion.ScoresState`.

    Raises:
        ImportError: If ipywidgets is not installed.
        ValueError: If a field has a value that the controls cannot say.
    """
    return ScoresPanel(check_scores(ScoresState(**state)))
