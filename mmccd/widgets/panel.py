"""What the three widgets have in common: controls set a state, and the state is drawn and told in a sentence."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mmccd.explorer.controls import Controls, make_widget
from mmccd.explorer.markup import KEEP_KEYS, message
from mmccd.extras import require
from mmccd.viz import Sheet

State = TypeVar("State")

DPI = 100  # pixels per inch of the picture in the page
STYLE = """<style>
.x-lesson { container-type: inline-size; --jp-widgets-font-size: 14px }
.x-lesson .x-picture { width: 100%; height: auto; max-width: 560px; max-height: none; object-fit: contain }
.x-lesson .x-text .widget-html-content { font-size: 16px; line-height: 1.4; min-height: 158px; white-space: normal }
.x-lesson .x-numbers .widget-html-content { font-size: 15px; line-height: 1.4 }
.x-lesson .x-numbers :is(td, th) { padding: 1px 10px; text-align: right }
</style>"""
# ipywidgets gives a picture no text for screen readers; it stands there by the time this image has failed to load
NAME_PICTURE = """<img src="data:," alt="" onerror="setTimeout(() => this.closest('.x-lesson').querySelectorAll(
  'img.x-picture').forEach(i => { i.alt = 'Picture: the sentence that follows says what it shows' }), 500)">"""
PLAIN_TEXT = (
    "A widget: run this cell in JupyterLab or Notebook 7 with mmccd[notebooks] installed. "
    "What it shows at first stands below as a picture."
)


def png_of(sheet: Sheet) -> bytes:
    """A figure as a PNG file, drawn once (`savefig` may draw twice) and hardly compressed, since speed counts here."""
    sheet.set_dpi(DPI)
    canvas, out = FigureCanvasAgg(sheet), BytesIO()
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(out, "png", compress_level=1)
    return out.getvalue()


class LessonPanel(Generic[State]):
    """Controls make a state; its picture, its sentence and its numbers go to the screen.

    Drawing takes a fraction of a second, and the page sends a moved slider's next value only when the kernel has dealt
    with the last one, so everything happens in the kernel's own thread.

    Attributes:
        state: What is shown.
        controls: Widgets by name.
        box: All of them, laid out.
    """

    name = ""  # the box has the class `x-NAME`
    groups: ClassVar[dict[str, Sequence[str]]] = {}  # title: names of the controls below it
    buttons: Sequence[str] = ()  # controls without a value

    def __init__(self, state: State) -> None:
        """Draw `state` and show the controls."""
        require("this widget", "ipywidgets")
        self.state, self._muted = self.fit(state), False
        self.controls: Controls = self.make_controls() | {
            "picture": make_widget("Image", "picture", format="png"),
            "text": make_widget("HTML", "text"),
            "numbers": make_widget("HTML", "numbers"),
        }
        self.box = self._lay_out()
        self.show(self.state)
        for name in (n for names in self.groups.values() for n in names if n not in self.buttons):
            self.controls[name].observe(self._on_change, "value")

    # --- what each widget says for itself

    def make_controls(self) -> Controls:
        """Widgets by name, all that `groups` names."""
        raise NotImplementedError

    def read(self) -> State:
        """The state that the controls say; it may not exist."""
        raise NotImplementedError

    def fit(self, state: State) -> State:
        """The state that exists and is nearest to `state`."""
        return state

    def put(self, state: State) -> None:
        """Make the controls say `state`."""
        raise NotImplementedError

    def draw(self, state: State) -> Sheet:
        """The picture."""
        raise NotImplementedError

    def describe(self, state: State) -> str:
        """What the picture shows, in a few sentences."""
        raise NotImplementedError

    def numbers(self, state: State) -> str:
        """A table below the sentence, HTML."""
        return ""

    # --- what they share

    def picture(self) -> Sheet:
        """The picture of what is shown now, for a cell below the widget: code hosts do not run widgets."""
        return self.draw(self.state)

    def show(self, state: State) -> None:
        """Show the state nearest to `state`: the picture, the sentence, the numbers and the controls."""
        state = self.fit(state)
        self.controls["picture"].value = png_of(self.draw(state))
        self.controls["text"].value = message(self.describe(state))
        self.controls["numbers"].value = self.numbers(state)
        self.state = state
        with self._without_changes():
            self.put(state)

    @contextmanager
    def _without_changes(self) -> Generator[None]:
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def _on_change(self, change: Any = None) -> None:
        """A control was moved."""
        if not self._muted:
            self.show(self.read())

    def _lay_out(self) -> Any:
        """The picture, and beside it, or below where there is little room, its words and the controls."""
        from ipywidgets import HTML, HBox, Layout, VBox

        c, tight = self.controls, {"min_width": "0", "overflow": "hidden", "margin": "0 12px 0 0"}
        shown = VBox([c["picture"]], layout=Layout(flex="1 1 360px", max_width="560px", **tight))
        rows = [w for title, names in self.groups.items() for w in (HTML(f"<b>{title}</b>"), *(c[n] for n in names))]
        moved = VBox([c["text"], c["numbers"], *rows], layout=Layout(flex="1 1 300px", max_width="460px", **tight))
        keep = KEEP_KEYS.replace("x-explorer", "x-lesson")
        box = VBox(
            [
                HTML(STYLE + keep + NAME_PICTURE, layout=Layout(display="none")),
                HBox([shown, moved], layout=Layout(flex_flow="row wrap")),
            ]
        )
        box.add_class("x-lesson")
        box.add_class(f"x-{self.name}")
        return box

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": PLAIN_TEXT}
