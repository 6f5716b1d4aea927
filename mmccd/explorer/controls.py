"""The widgets of the explorer: what they are, where they stand, and the ranges in which they move."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from mmccd.anatomy import KINDS
from mmccd.explorer.engine import Engine
from mmccd.explorer.markup import KEEP_KEYS, STYLE
from mmccd.explorer.render import map_scale
from mmccd.explorer.view import SWEEPS, View
from mmccd.runtime import pick_device

Controls = dict[str, Any]  # widgets by name; ipywidgets has no types

FROM_FILES = "from files"  # what the choice of a phantom says where the subject is none
PLAY_BUTTONS = {"step": "play_steps", "swept": "play_strips"}  # sliders that can play, and the widget that plays them
VIEW_FIELDS = tuple(f.name for f in fields(View) if f.name != "by_hand")  # that one follows from what is moved last


def make_widget(kind: str, name: str, text: str = "", **traits: Any) -> Any:
    """A widget with the class `x-NAME` in the page.

    Args:
        kind: A class of ipywidgets.
        name: What it sets or shows.
        text: Its label.
        **traits: Further traits of the widget.
    """
    import ipywidgets

    options: dict[str, Any] = {}
    if kind in ("Button", "FileUpload"):
        options = {"description": text, "layout": {"flex": "1 1 auto", "width": "auto"}}
    elif kind == "ToggleButtons":  # without a label, since its buttons say what they are
        options = {"description": "", "style": {"button_width": "7.2em"}, "layout": {"width": "auto"}}
    elif kind not in ("Play", "HTML", "Image"):
        style, layout = {"description_width": "7.7em"}, {"width": "auto"}
        options = {"description": text, "style": style, "layout": layout}
    if kind.endswith("Slider"):
        options["continuous_update"] = True
    widget = getattr(ipywidgets, kind)(**options | traits)
    widget.add_class(f"x-{name.replace('_', '-')}")
    return widget


def make_controls(engine: Engine, view: View) -> Controls:
    """All widgets by name: one for each field of the view, then the subject, the outputs and the buttons."""
    controls = view_controls(engine, view) | subject_controls(engine) | output_widgets()
    return controls | play_buttons(controls)


def view_controls(engine: Engine, view: View) -> Controls:
    """Widgets that set a field of the view."""
    size, make = engine.size, make_widget
    directions, rows = [("vertical", True), ("horizontal", False)], [("one row", 1), ("two rows", 2)]
    return {
        "place": make("IntSlider", "place", "axial slice", min=0, max=1),
        "input": make("Dropdown", "input", "input x", options=[view.input]),
        "target": make("Dropdown", "target", "target ŷ", options=[view.target]),
        "start": make("IntSlider", "start", "strip from", min=1 - view.width, max=size - 1),
        "width": make("IntSlider", "width", "strip width", min=1, max=size),
        "vertical": make("ToggleButtons", "vertical", options=directions),
        "seed": make("BoundedIntText", "seed", "noise seed", min=0, max=10**6),
        "sampler": make("Dropdown", "sampler", "sweep", options=list(SWEEPS)),
        "steps": make("IntSlider", "steps", "steps in all", min=1, max=max(view.steps, 100)),
        "step": make("IntSlider", "step", "step shown", min=1, max=1),
        "swept": make("IntSlider", "swept", "masks done", min=0, max=0),
        "threshold": make("FloatSlider", "threshold", "threshold", min=0, max=1, step=0.01, readout_format=".2f"),
        "twin": make("Checkbox", "twin", "show the healthy twin", indent=False),
        "rows": make("ToggleButtons", "rows", options=rows),
    }


def subject_controls(engine: Engine) -> Controls:
    """Widgets that choose the subject, and the device of the networks."""
    make, kind, devices = make_widget, engine.subject.kind or FROM_FILES, available_devices()
    return {
        "device": make("Dropdown", "device", "device", options=devices, value=str(engine.device)),
        "kind": make("Dropdown", "kind", "phantom", options=[*KINDS, FROM_FILES], value=kind),
        "subject_seed": make("BoundedIntText", "subject_seed", "its seed", min=0, max=10**6, value=engine.subject.seed),
        "path": make(
            "Text", "path", "or a path", placeholder="folder of a case, or a NIfTI file", continuous_update=False
        ),
        "open": make("Button", "open", "Open path"),
        "upload": make("FileUpload", "upload", "Upload NIfTI", multiple=True, accept=".nii,.gz"),
    }


def output_widgets() -> Controls:
    """The picture, the texts, and the buttons that save."""
    make = make_widget
    return {
        "picture": make("Image", "picture", format="png"),
        **{name: make("HTML", name) for name in ("text", "message", "scores", "lines")},
        "calibrated": make("Button", "calibrated", "calibrated", disabled=True),
        "show_lines": make("Button", "show_lines", "Show Python lines"),
        "save_png": make("Button", "save_png", "Save PNG"),
        "save_steps": make("Button", "save_steps", "GIF of steps"),
        "save_strips": make("Button", "save_strips", "GIF of strips"),
    }


def play_buttons(controls: Controls) -> Controls:
    """Widgets that play a slider; bound to it in the browser, so that they go on while the kernel computes."""
    from ipywidgets import jslink

    found = {}
    for (slider, name), milliseconds in zip(PLAY_BUTTONS.items(), (300, 500)):
        low, high = controls[slider].min, max(controls[slider].max, 1)
        found[name] = make_widget("Play", name, min=low, max=high, interval=milliseconds)
        jslink((found[name], "value"), (controls[slider], "value"))
    return found


def available_devices() -> list[str]:
    """Names of the devices that networks can run on here, the quickest first."""
    best = pick_device("auto")
    return [best] if best == "cpu" else [best, "cpu"]


def lay_out(controls: Controls) -> Any:
    """The page: the picture, what it shows in words, and below it the controls in four groups."""
    from ipywidgets import HTML, HBox, Layout, VBox

    flexible = Layout(flex="1 1 264px", max_width="460px", min_width="0", margin="0 8px 0 0", overflow="hidden")

    def group(title: str, *rows: str | Sequence[str]) -> Any:
        lines = [controls[r] if isinstance(r, str) else HBox([controls[n] for n in r]) for r in rows]
        return VBox([HTML(f"<b>{title}</b>"), *lines], layout=flexible)

    saving = ("save_png", "save_steps"), ("save_strips", "show_lines")
    groups = [
        group("Subject", "kind", "subject_seed", "place", "path", ("open", "upload"), "twin"),
        group("What is hidden", "start", "width", "vertical", "sampler", "swept", "play_strips"),
        group("How it is predicted", "input", "target", "steps", "step", "play_steps", "seed", "device"),
        group("What is abnormal", "threshold", ("calibrated",), "scores", "rows", *saving),
    ]
    box = VBox(
        [
            HTML(STYLE + KEEP_KEYS, layout=Layout(display="none")),
            *(controls[name] for name in ("picture", "text", "message")),
            HBox(groups, layout=Layout(flex_flow="row wrap")),
            controls["lines"],
        ]
    )
    box.add_class("x-explorer")
    return box


@dataclass(frozen=True)
class ControlLimits:
    """What the controls may say for one subject and view.

    Attributes:
        places: First and last axial slice.
        inputs: Modalities of the case that the networks take.
        targets: Modalities that they predict from the view's input.
        masks: Masks of the sweep.
        steps: Denoising steps that can be shown.
        top: Highest threshold.
        calibrated: The calibrated threshold, or None.
        twin: Whether the subject has a healthy twin.
        kind: Kind of the phantom, or `FROM_FILES`.
        diffusion: Whether the target is predicted in steps.
        start: First and last start of a strip.
    """

    places: tuple[int, int]
    inputs: list[str]
    targets: list[str]
    masks: int
    steps: int
    top: float
    calibrated: float | None
    twin: bool
    kind: str
    diffusion: bool
    start: tuple[int, int]


def control_limits(engine: Engine, view: View) -> ControlLimits:
    """What the controls may say while `view` is shown."""
    return ControlLimits(
        places=(engine.places[0], engine.places[-1]),
        inputs=[m for m in dict.fromkeys(i for i, _ in engine.pairs) if m in engine.subject.case.volumes],
        targets=[t for i, t in engine.pairs if i == view.input],
        masks=len(engine.masks(view)),
        steps=len(engine.trace(view, view.shown_mask).steps),
        top=max(map_scale(engine, view), view.threshold),
        calibrated=engine.threshold(view),
        twin=engine.subject.twin is not None,
        kind=engine.subject.kind or FROM_FILES,
        diffusion=engine.detector(view).config.diffusion,
        start=(1 - view.width, engine.size - 1),
    )


def set_slider(slider: Any, low: float, high: float, value: float) -> None:
    """Set range and value: widen the range, set the value, narrow the range.

    A value must never lie outside the range, neither here nor in the page; and each change is a message of its own,
    since in a common message their order would be left to chance.
    """
    slider.min, slider.max = min(low, slider.min), max(high, slider.max)
    slider.value = value
    slider.min, slider.max = low, high


def set_named_slider(controls: Controls, name: str, low: float, high: float, value: float) -> None:
    """Set a slider; one that plays after its play button, which would else put the slider back."""
    if name in PLAY_BUTTONS:
        set_slider(controls[PLAY_BUTTONS[name]], low, high, value)
    set_slider(controls[name], low, high, value)


def set_controls(controls: Controls, view: View, limits: ControlLimits) -> None:
    """Make the controls say what is shown: first what may be chosen, then what is chosen."""
    for name, options in (("input", limits.inputs), ("target", limits.targets)):
        if list(controls[name].options) != options:
            controls[name].options = options
    ranges = {
        "place": limits.places,
        "start": limits.start,
        "swept": (0, limits.masks),
        "step": (1, limits.steps),
        "threshold": (0, limits.top),
    }
    for name, (low, high) in ranges.items():
        set_named_slider(controls, name, low, high, min(max(getattr(view, name), low), high))
    for name in ("input", "target", "width", "vertical", "sampler", "steps", "seed", "twin", "rows"):
        controls[name].value = getattr(view, name)
    controls["kind"].value = limits.kind
    controls["twin"].disabled = not limits.twin
    controls["subject_seed"].disabled = limits.kind not in KINDS
    for name in ("steps", "step", "play_steps"):
        controls[name].disabled = not limits.diffusion
    known = limits.calibrated is not None
    controls["calibrated"].disabled = not known
    controls["calibrated"].description = f"calibrated: {limits.calibrated:.2f}" if known else "not calibrated"
