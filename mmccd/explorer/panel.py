"""The explorer in a notebook: widgets around an `Explorer`."""

import asyncio
import html
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmccd.anatomy import KINDS
from mmccd.errors import format_error
from mmccd.explorer.controls import (
    FROM_FILES,
    VIEW_FIELDS,
    ControlLimits,
    Controls,
    control_limits,
    lay_out,
    make_controls,
    set_controls,
    set_named_slider,
)
from mmccd.explorer.describe import score_text
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.markup import code_block, download_link, message
from mmccd.explorer.saving import save_picture
from mmccd.explorer.subjects import Subject, file_subject, phantom_subject, upload_subject
from mmccd.explorer.view import SWEEPS, CycleKey, View
from mmccd.explorer.worker import NewestRequestWorker, RenderRequest, SupersededError, is_still_needed
from mmccd.extras import require
from mmccd.files import user_path

KEPT_FIELDS = ("width", "vertical", "sampler", "steps", "step", "seed", "twin", "rows")  # with another subject
PLAIN_TEXT = (
    "The explorer: run this cell in JupyterLab, Notebook 7 or Voilà, with mmccd[notebooks] installed. "
    "What it shows stands below as a picture."
)


@dataclass(frozen=True)
class Rendered:
    """Everything that the screen shows of one view."""

    view: View
    png: bytes
    text: str
    scores: dict[str, float] | None
    limits: ControlLimits


class Panel:
    """Controls make requests, a worker handles the newest one, and the result goes to the screen.

    Attributes:
        explorer: Computes and draws, in the worker's thread.
        out: Folder for saved pictures.
        controls: Widgets by name.
        box: All of them, laid out.
        worker: Handles the requests.
        shown: The view on the screen.
    """

    def __init__(self, explorer: Explorer, view: View, out: str | Path = ".") -> None:
        """Draw `view` and show the controls; pictures are saved in the folder `out`."""
        self.explorer, self.out, self.shown = explorer, user_path(out), view
        self._muted, self._by_hand, self._pair = False, view.by_hand, (view.input, view.target)
        self._calibrated: float | None = None
        # how to get the subject that is requested, the one that is loaded, and the one that could not be loaded last
        self.loader: Callable[[], Subject | None] = lambda: None
        self.loaded: Callable[[], Subject | None] = self.loader
        self._failed: Callable[[], Subject | None] | None = None
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None  # outside of a kernel
        self.controls: Controls = make_controls(explorer, view)
        self.worker = NewestRequestWorker(self._handle, self._skip)
        self.box = lay_out(self.controls)
        self.show(None, self._render(view))
        self._connect()

    def view(self) -> View:
        """The view that the controls say; it may not exist for the subject."""
        values = {name: self.controls[name].value for name in VIEW_FIELDS}
        values["step"] = min(values["step"], values["steps"])
        return View(**values, by_hand=self._by_hand or not values["swept"])

    def request(self, export: str = "") -> None:
        """Ask for the view that the controls say, and for a file of it if `export` is "png", "steps" or "strips"."""
        device = self.controls["device"].value
        self.worker.submit(RenderRequest(self.loader, self.view(), device, self._pair, export))

    def request_subject(self, loader: Callable[[], Subject]) -> None:
        """Ask for another subject, which `loader` makes."""
        self.loader = loader
        self.request()

    # --- on the screen: called in the kernel's own thread, which alone may touch widgets

    def show(self, request: RenderRequest | None, result: Rendered) -> None:
        """Put a result on the screen; the controls follow, unless they were moved since `request`."""
        c, v = self.controls, result.view
        c["picture"].value, c["text"].value = result.png, html.escape(result.text)
        c["scores"].value = score_text(result.scores).capitalize()
        if self.worker.newest is request:
            with self._without_requests():
                set_controls(c, v, result.limits)
            self._calibrated, self._by_hand, self._pair = result.limits.calibrated, v.by_hand, (v.input, v.target)
        self.shown = v

    def show_message(self, text: str, is_error: bool = False, extra: str = "") -> None:
        """Show a sentence below the picture, and HTML after it."""
        self.controls["message"].value = message(text, is_error, extra)

    def _on_screen(self, put: Callable[..., None], *args: Any) -> None:
        if self._loop is None or self._loop.is_closed():
            put(*args)
        else:
            self._loop.call_soon_threadsafe(put, *args)

    @contextmanager
    def _without_requests(self) -> Iterator[None]:
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    # --- in the worker's thread

    def _handle(self, request: RenderRequest) -> None:
        try:
            self._fulfil(request)
        except SupersededError:
            self._skip(request)
        except Exception as e:  # the page must go on, whatever was wrong
            if request.loader is not self.loaded:
                self._failed = request.loader
            if self.loader is request.loader:
                self.loader = self.loaded
            self._on_screen(self.show_message, format_error(e), True)

    def _skip(self, request: RenderRequest) -> None:
        if request.export == "png":
            self._handle(request)
        elif request.export:
            text = f"The GIF of {request.export} was dropped, since a control was moved."
            self._on_screen(self.show_message, text)

    def _fulfil(self, request: RenderRequest) -> None:
        e, view = self.explorer, request.view
        if request.loader not in (self.loaded, self._failed):
            view = self._load_subject(request)
        if request.device != e.device:
            e.set_device(request.device)
        view, e.on_evaluation = e.nearest_view(view), self._progress(request)
        if (view.input, view.target) != request.pair:  # a threshold belongs to a pair of modalities
            view = replace(view, threshold=e.threshold(view) or view.threshold)
        saved = save_picture(e, view, request.export, self.out) if request.export else None
        self._on_screen(self.show, request, self._render(view))
        if saved:
            text = saved.error or f"Saved as {saved.path}."
            self._on_screen(self.show_message, text, bool(saved.error), download_link(saved.name, saved.data))
        elif request.loader is not self._failed:
            self._on_screen(self.show_message, "")

    def _progress(self, request: RenderRequest) -> Callable[[CycleKey], None]:
        """A callback for each network evaluation: stops what is no longer needed, and reports what takes long."""
        begin, reported, count = time.monotonic(), 0.0, 0

        def on_evaluation(key: CycleKey) -> None:
            nonlocal reported, count
            if not is_still_needed(self.worker.newest, request, key, self.explorer.nearest_view):
                raise SupersededError
            count, now = count + 1, time.monotonic() - begin
            if now > max(0.4, reported + 0.2):
                reported = now
                self._on_screen(self.show_message, f"Computing: {count} network evaluations so far.")

        return on_evaluation

    def _load_subject(self, request: RenderRequest) -> View:
        """Load another subject, and choose a view of it that keeps what can be kept."""
        e, view = self.explorer, request.view
        self._on_screen(self.show_message, "One moment: the images are being made or read.")
        if subject := request.loader():
            e.set_subject(subject)
        self.loaded = request.loader
        kept = {name: getattr(view, name) for name in KEPT_FIELDS}
        if view.input in e.subject.case.volumes:
            near = e.nearest_view(view)
            kept |= {"input": near.input, "target": near.target}
        return replace(e.first_view(**kept), swept=view.swept, by_hand=view.by_hand)

    def _render(self, view: View) -> Rendered:
        e = self.explorer
        return Rendered(view, e.png(view), e.describe(view), e.scores(view), control_limits(e, view))

    # --- what the user does

    def _connect(self) -> None:
        c = self.controls
        for name in (*VIEW_FIELDS, "device"):
            c[name].observe(partial(self._on_change, name), "value")
        for name in ("kind", "subject_seed"):
            c[name].observe(self._on_phantom, "value")
        c["upload"].observe(self._on_upload, "value")
        c["open"].on_click(self._on_path)
        c["calibrated"].on_click(self._on_calibrated)
        c["show_lines"].on_click(self._on_show_lines)
        for kind in ("png", "steps", "strips"):
            c[f"save_{kind}"].on_click(lambda _, kind=kind: self.request(kind))

    def _on_change(self, name: str, change: Any) -> None:
        """A control of the view was moved."""
        if self._muted:
            return
        c = self.controls
        if name in ("start", "width", "vertical"):
            self._by_hand = True
        if name == "swept":
            self._by_hand = not c["swept"].value
        if name in ("sampler", "steps"):
            with self._without_requests():
                if name == "sampler":
                    c["steps"].value = SWEEPS[c["sampler"].value].steps
                set_named_slider(c, "step", 1, c["steps"].value, c["steps"].value)
        self.request()

    def _on_phantom(self, change: Any = None) -> None:
        """A phantom was chosen, or "from files", which needs a path or an upload."""
        kind, seed = self.controls["kind"], self.controls["subject_seed"]
        if self._muted:
            return
        if kind.value in KINDS:
            return self.request_subject(partial(phantom_subject, kind.value, seed.value))
        with self._without_requests():
            kind.value = self.explorer.subject.kind or FROM_FILES
        self.show_message("Give a path and open it, or upload files.")

    def _on_path(self, button: Any = None) -> None:
        """A path is to be opened."""
        if path := self.controls["path"].value.strip():
            return self.request_subject(partial(file_subject, path, self.controls["input"].value))
        self.show_message("Type the path of a case or of a NIfTI file first.", True)

    def _on_upload(self, change: Any) -> None:
        """Files were uploaded."""
        if self._muted or not change["new"]:
            return
        files = {f["name"]: bytes(f["content"]) for f in change["new"]}
        with self._without_requests():
            self.controls["upload"].value = ()
        self.request_subject(partial(upload_subject, files, self.controls["input"].value))

    def _on_show_lines(self, button: Any = None) -> None:
        """The Python lines are shown, or hidden if they are on the screen already."""
        widget, lines = self.controls["lines"], code_block(self.explorer.lines(self.shown))
        widget.value = "" if widget.value == lines else lines

    def _on_calibrated(self, button: Any = None) -> None:
        """The threshold goes back to the calibrated one."""
        self.controls["threshold"].value = self._calibrated

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return self.box._repr_mimebundle_(**kwargs) | {"text/plain": PLAIN_TEXT}


def explore(
    subject: Subject | str | Path | None = None,
    weights: str = "mmccd",
    device: str = "auto",
    out: str | Path = ".",
    **view: Any,
) -> Panel:
    """Open the explorer in a notebook: hide part of a slice, and watch the networks predict it.

    Args:
        subject: A `Subject`, or the path of a case; None makes a phantom with a glioma.
        weights: As in `load_masked_detector`.
        device: Where the networks run: "auto", "cpu", "cuda" or "mps".
        out: Folder for saved pictures.
        **view: Fields of the first `View`.

    Returns:
        The panel, which shows itself as the last value of a cell.

    Raises:
        ImportError: If ipywidgets is not installed.
        ValueError: If the subject, the weights, the device or the view cannot be used.

    Example:
        explore("scans/patient_1", input="flair")
    """
    require("the explorer", "ipywidgets")
    if isinstance(subject, (str, Path)):
        subject = file_subject(subject, view.get("input"))
    explorer = Explorer(subject, weights, device)
    return Panel(explorer, explorer.first_view(**view), out)
