""""""

from mmccd.explorer.engine import pick_explorer_device
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.render import map_scale
from mmccd.explorer.view import SWEEPS, View
from mmccd.phantom import KINDS

WIDE = {"description_width": "7.7em"}


def knob(
    kind: str,  # of widget, a class of ipywidgets
    name: str,  # what it sets
    text="",  # beside it
    **traits,  # of the widget
):
    "One control."
    import ipywidgets

    more = {"continuous_update": True} if kind.endswith("Slider") else {}
    if kind not in ("Button", "Play", "FileUpload", "HTML", "Image"):
        more |= {"style": WIDE, "layout": {"width": "auto"}}
    if kind == "ToggleButtons":
        more["style"], text = {"button_width": "7.2em"}, ""  # its buttons say it
    if kind in ("Button", "FileUpload"):
        more["layout"] = {"flex": "1 1 auto", "width": "auto"}
    w = (
        getattr(ipywidgets, kind)(description=text, **more | traits)
        if kind not in ("Play", "HTML", "Image")
        else getattr(ipywidgets, kind)(**traits)
    )
    w.add_class(f"x-{name}")
    return w


def make_knobs(
    explorer: Explorer,  # for the ranges
    view: View,  # for the values
    devices: list,  # to choose from
) -> dict:  # widgets by name
    "All controls that set a field of the view, or whom one looks at."
    k, size = knob, explorer.size
    own = dict(
        place=k("IntSlider", "place", "axial slice", min=0, max=1),
        input=k("Dropdown", "input", "input x", options=[view.input]),
        target=k("Dropdown", "target", "imagine", options=[view.target]),
        start=k("IntSlider", "start", "strip from", min=1 - view.width, max=size - 1),
        width=k("IntSlider", "width", "strip width", min=1, max=size),
        vertical=k("ToggleButtons", "vertical", "strip runs", options=[("vertical", True), ("horizontal", False)]),
        seed=k("BoundedIntText", "seed", "noise seed", min=0, max=10**6),
        sampler=k("Dropdown", "sampler", "sweep", options=list(SWEEPS)),
        steps=k("IntSlider", "steps", "steps in all", min=1, max=max(view.steps, 100)),
        step=k("IntSlider", "step", "step shown", min=1, max=1),
        swept=k("IntSlider", "swept", "masks done", min=0, max=0),
        threshold=k("FloatSlider", "threshold", "threshold", min=0, max=1, step=0.01, readout_format=".2f"),
        twin=k("Checkbox", "twin", "show the healthy twin", indent=False),
        rows=k("ToggleButtons", "rows", "pictures", options=[("one row", 1), ("two rows", 2)]),
    )
    return own | dict(
        device=k("Dropdown", "device", "device", options=devices, value=str(explorer.device)),
        kind=k(
            "Dropdown",
            "kind",
            "made-up head",
            options=[*KINDS, "from files"],
            value=explorer.subject.kind or "from files",
        ),
        subject_seed=k("BoundedIntText", "subject-seed", "its seed", min=0, max=10**6, value=explorer.subject.seed),
        path=k("Text", "path", "or a path", placeholder="folder of a case, or a NIfTI file", continuous_update=False),
        open=k("Button", "open", "Open path"),
        upload=k("FileUpload", "upload", "Upload NIfTI", multiple=True, accept=".nii,.gz"),
    )


def devices() -> list:  # names, the quickest first
    "Where networks can run here."
    best = pick_explorer_device("auto")
    return [best] + ["cpu"] * (best != "cpu")


PLAYS = {"step": "play_steps", "swept": "play_strips"}  # sliders that play, and the widget that plays them


def make_outputs(
    k: dict,  # widgets by name; the rest is added
) -> dict:  # the same
    "Pictures, words, buttons, and the two that play."
    from ipywidgets import jslink

    k |= dict(
        picture=knob("Image", "picture", format="png"),
        text=knob("HTML", "text"),
        message=knob("HTML", "message"),
        scores=knob("HTML", "scores"),
        lines=knob("HTML", "lines"),
        calibrated=knob("Button", "calibrated", "calibrated", disabled=True),
        show_lines=knob("Button", "show-lines", "Show Python lines"),
        save_png=knob("Button", "save-png", "Save PNG"),
        save_steps=knob("Button", "save-steps", "GIF of steps"),
        save_strips=knob("Button", "save-strips", "GIF of strips"),
    )
    for (slider, name), wait in zip(PLAYS.items(), (300, 500)):
        k[name] = knob("Play", name.replace("_", "-"), min=k[slider].min, max=max(k[slider].max, 1), interval=wait)
        jslink((k[name], "value"), (k[slider], "value"))
    return k


STYLE = """<style>.x-explorer{container-type:inline-size;--jp-widgets-font-size:clamp(13px,.9cqw,17px)} .x-picture{align-self:flex-start;width:auto;height:auto;max-width:100%;max-height:58vh}
.x-text .widget-html-content{font-size:16px;line-height:1.4;min-height:112px} .x-message .widget-html-content{font-size:16px;min-height:28px}
.x-scores .widget-html-content{font-size:18px;font-weight:bold;line-height:1.3;min-height:47px} .x-lines pre{user-select:all;white-space:pre-wrap}</style>
<img src="data:," alt="" onerror="this.closest('.x-explorer').addEventListener('focusin', e => { e.target.dataset.lmSuppressShortcuts = 'true' })">"""


def make_box(
    k: dict,  # widgets by name
):
    "Where the controls stand."
    from ipywidgets import HTML, HBox, Layout, VBox

    wide = Layout(flex="1 1 264px", max_width="460px", min_width="0", margin="0 8px 0 0", overflow="hidden")

    def group(title, *names):
        return VBox(
            [
                HTML(f"<b>{title}</b>"),
                *(HBox([k[n] for n in name.split("+") if n]) if "+" in name else k[name] for name in names),
            ],
            layout=wide,
        )

    groups = [
        group("Who", "kind", "subject_seed", "place", "path", "open+upload", "twin"),
        group("What is hidden", "start", "width", "vertical", "sampler", "swept", "play_strips"),
        group("How it is imagined", "input", "target", "steps", "step", "play_steps", "seed", "device"),
        group(
            "What is abnormal",
            "threshold",
            "calibrated+",
            "scores",
            "rows",
            "save_png+save_steps",
            "save_strips+show_lines",
        ),
    ]
    box = VBox(
        [
            HTML(STYLE, layout=Layout(display="none")),
            k["picture"],
            k["text"],
            k["message"],
            HBox(groups, layout=Layout(flex_flow="row wrap")),
            k["lines"],
        ]
    )
    box.add_class("x-explorer")
    return box


def limits(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
) -> dict:  # what the controls need to know
    "Between what the controls may move."
    inputs = [m for m in dict.fromkeys(i for i, _ in explorer.ways) if m in explorer.subject.case.volumes]
    return dict(
        places=(explorer.places[0], explorer.places[-1]),
        inputs=inputs,
        targets=[t for i, t in explorer.ways if i == view.input],
        masks=len(explorer.masks(view)),
        steps=len(explorer.trace(view, view.shown).steps),
        top=max(map_scale(explorer, view), view.threshold),
        calibrated=explorer.threshold(view),
        twin=explorer.subject.twin is not None,
        kind=explorer.subject.kind or "from files",
        diffusion=explorer.detector(view).config.diffusion,
        start=(1 - view.width, explorer.size - 1),
    )


def move(
    slider,  # a widget with min, max and value
    low,  # the least value
    high,  # the largest
    value,  # where it stands
):
    "Widen the range, set the value, narrow the range: one message each, since in a common one their order would be left to chance."
    slider.min, slider.max = min(low, slider.min), max(high, slider.max)
    slider.value = value
    slider.min, slider.max = low, high


def move_both(
    k: dict,  # widgets by name
    name: str,  # "step" or "swept"
    low,  # the least value
    high,  # the largest
    value,  # where it stands
):
    "A slider that plays: Play first, which would else refuse what its slider says, and put the slider back."
    move(k[PLAYS[name]], low, high, value)
    move(k[name], low, high, value)
