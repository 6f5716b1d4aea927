""""""

import asyncio
import html
import time
from base64 import b64encode
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from mmccd.explorer.controls import PLAYS, devices, limits, make_box, make_knobs, make_outputs, move, move_both
from mmccd.explorer.engine import score_words
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.subjects import file_subject, phantom_subject, upload_subject
from mmccd.explorer.view import SWEEPS, View
from mmccd.explorer.worker import Latest, RenderRequest, Stale, wanted_by
from mmccd.files import write_atomic
from mmccd.phantom import KINDS


def save_file(
    explorer: Explorer,  # of whom
    view: View,  # what is looked at
    kind: str,  # "png", "steps" or "strips"
    out,  # folder; made where missing
) -> tuple:  # (name, contents, where it was written or why not)
    "Write a picture or a GIF beside what is there already."
    from mmccd.files import output_folder, writing

    data = explorer.png(view) if kind == "png" else explorer.gif(view, kind)
    stem, end = (
        f"{explorer.subject.case.id}-{view.place}-{view.input}-{view.target}{'' if kind == 'png' else '-' + kind}",
        "png" if kind == "png" else "gif",
    )
    try:
        with output_folder(out) as folder, writing(out):
            path = next(p for n in range(1, 10**6) if not (p := folder / f"{stem}{f'-{n}' * (n > 1)}.{end}").exists())
            write_atomic(path, data)
        return path.name, data, f"Saved as {path}."
    except ValueError as e:
        return f"{stem}.{end}", data, str(e)


def link(
    name: str,  # of the file
    data: bytes,  # its contents
) -> str:  # HTML
    "A link that downloads what is in the page, so that it works where the kernel's folder cannot be reached."
    kind = "image/gif" if name.endswith("gif") else "image/png"
    return f'<a download="{html.escape(name)}" href="data:{kind};base64,{b64encode(data).decode()}">Download {html.escape(name)}</a>'


class Panel:
    "Widgets around an `Explorer`: they make wishes, a worker fulfils the newest, and what it found is put on the screen."

    def __init__(
        self,
        explorer: Explorer,  # what computes and draws
        view: View,  # where to begin
        out=".",  # folder for what is saved
    ):
        self.explorer, self.out, self.quiet, self.by_hand, self.seen, self.way, self.failed = (
            explorer,
            out,
            False,
            view.by_hand,
            view,
            (view.input, view.target),
            None,
        )
        self.loader = self.loaded = lambda: None
        try:
            self.loop = asyncio.get_running_loop()  # of the kernel; elsewhere there is none
        except RuntimeError:
            self.loop = None
        self.knobs, self.worker = make_outputs(make_knobs(explorer, view, devices())), Latest(self.work, self.drop)
        self.box = make_box(self.knobs)
        self.show(None, *self.make(view))
        connect(self)

    def view(self) -> View:  # what the controls say
        k = self.knobs
        return View(
            **{f.name: k[f.name].value for f in fields(View) if f.name in k}
            | {"step": min(k["step"].value, k["steps"].value), "by_hand": self.by_hand or not k["swept"].value}
        )

    @contextmanager
    def still(self):  # controls may be set without making a wish
        self.quiet = True
        try:
            yield self.knobs
        finally:
            self.quiet = False

    def ask(self, keep=""):
        return self.worker.ask(RenderRequest(self.loader, self.view(), self.knobs["device"].value, self.way, keep))

    def on_screen(self, put, *args):  # in the kernel's own thread, which alone touches widgets
        if self.loop is None or self.loop.is_closed():
            put(*args)
        else:
            self.loop.call_soon_threadsafe(put, *args)

    def make(self, view):
        return (
            view,
            self.explorer.png(view),
            self.explorer.describe(view),
            self.explorer.scores(view),
            limits(self.explorer, view),
        )

    def work(self, wish):  # in the worker's thread
        try:
            fulfil(self, wish)
        except Stale:
            self.drop(wish)
        except Exception as e:
            if wish.loader is not self.loaded:
                self.failed = wish.loader
            if self.loader is wish.loader:
                self.loader = self.loaded
            known = isinstance(e, (ValueError, OSError))
            self.on_screen(
                self.tell, " ".join((str(e) if known else f"Unexpected {type(e).__name__}: {e}.").split()), True
            )

    def drop(self, wish):  # nobody waits for it any more
        if wish.keep == "png":
            self.work(wish)
        elif wish.keep:
            self.on_screen(self.tell, f"The GIF of {wish.keep} was dropped, since a control was moved.")

    def tell(self, text, bad=False, more=""):  # a sentence below the picture; `more` is HTML
        colour = "#A33C00" if bad else "#333333"
        self.knobs["message"].value = (
            f'<span role="{"alert" if bad else "status"}" style="color:{colour}">{html.escape(text)}</span> {more}'
            if text or more
            else ""
        )

    def show(self, wish, view, png, text, scores, ranges):  # what was found
        k = self.knobs
        k["picture"].value, k["text"].value = png, html.escape(text)
        k["scores"].value = score_words(scores).capitalize()
        if self.worker.newest is wish:
            set_knobs(self, view, ranges)
        self.seen = view

    def _repr_mimebundle_(self, **kwargs):
        return self.box._repr_mimebundle_(**kwargs) | {
            "text/plain": "The explorer: run this cell in JupyterLab, Notebook 7 or Voilà, with mmccd[notebooks] installed. What it shows stands below as a picture."
        }


def set_knobs(
    panel: Panel,  # whose controls
    view: View,  # what they shall say
    ranges: dict,  # from `limits`
):
    "Bring the controls in line with what is shown."
    r = ranges
    with panel.still() as k:
        for name, options in (("input", r["inputs"]), ("target", r["targets"])):
            if list(k[name].options) != options:
                k[name].options = options
        for name, low, high in (
            ("place", *r["places"]),
            ("start", *r["start"]),
            ("swept", 0, r["masks"]),
            ("step", 1, r["steps"]),
            ("threshold", 0, r["top"]),
        ):
            put = partial(move_both, k, name) if name in PLAYS else partial(move, k[name])
            put(low, high, min(max(getattr(view, name), low), high))
        for name in ("input", "target", "width", "vertical", "sampler", "steps", "seed", "twin", "rows"):
            k[name].value = getattr(view, name)
        k["kind"].value, k["twin"].disabled, k["subject_seed"].disabled = (
            r["kind"],
            not r["twin"],
            r["kind"] not in KINDS,
        )
        for name in ("steps", "step", "play_steps"):
            k[name].disabled = not r["diffusion"]
        panel.calibrated, k["calibrated"].disabled = r["calibrated"], r["calibrated"] is None
        k["calibrated"].description = (
            "not calibrated" if r["calibrated"] is None else f"calibrated: {r['calibrated']:.2f}"
        )
        panel.by_hand, panel.way = view.by_hand, (view.input, view.target)


def load_subject(
    panel: Panel,  # who asks
    wish: RenderRequest,  # with another subject
) -> View:
    "Load another subject, and find a view of it that is as near as can be."
    e, v = panel.explorer, wish.view
    panel.on_screen(panel.tell, "One moment: the images are being made or read.")
    e.meet(wish.loader())
    panel.loaded = wish.loader
    keep = {
        name: getattr(v, name) for name in ("width", "vertical", "sampler", "steps", "step", "seed", "twin", "rows")
    }
    near = e.fit(v)
    way = {"input": near.input, "target": near.target} if v.input in e.subject.case.volumes else {}
    return replace(
        e.first_view(**keep, **way), swept=v.swept, by_hand=v.by_hand
    )  # the sweep is cut to what there is, by `fit`


def fulfil(
    panel: Panel,  # who asks
    wish: RenderRequest,  # for what
):
    "Compute what is missing, draw, and hand it to the screen."
    e, begun, count, told = panel.explorer, time.monotonic(), 0, 0.0

    def before(key):
        nonlocal count, told
        if not wanted_by(panel.worker.newest, wish, key, e.fit):
            raise Stale
        count, now = count + 1, time.monotonic() - begun
        if now > max(0.4, told + 0.2):
            told = now
            panel.on_screen(panel.tell, f"Imagining: {count} network evaluations so far.")

    view = wish.view if wish.loader in (panel.loaded, panel.failed) else load_subject(panel, wish)
    if wish.device != e.device:
        e.use(wish.device)
    view, e.before = e.fit(view), before
    if (view.input, view.target) != wish.way:
        view = replace(view, threshold=e.threshold(view) or view.threshold)
    words = save_file(e, view, wish.keep, panel.out) if wish.keep else None
    panel.on_screen(panel.show, wish, *panel.make(view))
    if words:
        panel.on_screen(panel.tell, words[2], not words[2].startswith("Saved"), link(*words[:2]))
    elif wish.loader is not panel.failed:
        panel.on_screen(panel.tell, "")


def on_change(
    panel: Panel,  # whose control
    name: str,  # which
    change,  # from the widget
):
    "A control was moved."
    if panel.quiet:
        return
    k = panel.knobs
    if name in ("start", "width", "vertical"):
        panel.by_hand = True
    if name == "swept":
        panel.by_hand = not k["swept"].value
    if name in ("sampler", "steps"):
        with panel.still():
            if name == "sampler":
                k["steps"].value = SWEEPS[k["sampler"].value].steps
            move_both(k, "step", 1, k["steps"].value, k["steps"].value)
    panel.ask()


def set_subject(
    panel: Panel,  # who asks
    loader,  # function that returns a `Subject`
):
    "Another subject is wanted."
    panel.loader = loader
    return panel.ask()


def phantom_wanted(
    panel: Panel,  # who asks
    change,  # from the widget
):
    "A made-up subject, or a word on how to get another."
    k = panel.knobs
    if panel.quiet:
        return
    if k["kind"].value in KINDS:
        return set_subject(panel, partial(phantom_subject, k["kind"].value, k["subject_seed"].value))
    with panel.still():
        k["kind"].value = panel.explorer.subject.kind or "from files"
    panel.tell("Give a path and open it, or upload files.")


def path_wanted(
    panel: Panel,  # who asks
    *_,  # the button
):
    "A case at a path."
    if path := panel.knobs["path"].value.strip():
        return set_subject(panel, partial(file_subject, path, panel.knobs["input"].value))
    panel.tell("Type the path of a case or of a NIfTI file first.", True)


def uploaded(
    panel: Panel,  # who asks
    change,  # from the upload widget
):
    "Files came in."
    if panel.quiet or not change["new"]:
        return
    files = {f["name"]: bytes(f["content"]) for f in change["new"]}
    with panel.still() as k:
        k["upload"].value = ()
    set_subject(panel, partial(upload_subject, files, panel.knobs["input"].value))


def show_lines(
    panel: Panel,  # whose view
    *_,  # the button
):
    "The lines of Python, or nothing if they are there already."
    w, lines = panel.knobs["lines"], f"<pre>{html.escape(panel.explorer.lines(panel.seen))}</pre>"
    w.value = "" if w.value == lines else lines


def to_calibrated(
    panel: Panel,  # whose threshold
    *_,  # the button
):
    "Put the threshold where healthy brains put it."
    panel.knobs["threshold"].value = panel.calibrated


def connect(
    panel: Panel,  # with its controls
):
    "Each control makes a wish."
    k = panel.knobs
    for name in [f.name for f in fields(View) if f.name in k] + ["device"]:
        k[name].observe(partial(on_change, panel, name), "value")
    for name in ("kind", "subject_seed"):
        k[name].observe(partial(phantom_wanted, panel), "value")
    k["open"].on_click(partial(path_wanted, panel))
    k["upload"].observe(partial(uploaded, panel), "value")
    k["calibrated"].on_click(partial(to_calibrated, panel))
    k["show_lines"].on_click(partial(show_lines, panel))
    for kind in ("png", "steps", "strips"):
        k[f"save_{kind}"].on_click(lambda _, kind=kind: panel.ask(kind))


def explore(
    subject=None,  # a `Subject`, or the path of a case; None: a made-up patient with a glioma
    weights="mmccd",  # as in `masked_detector`
    device="auto",  # where the networks run
    out=".",  # folder for what is saved
    **view,  # fields of the first `View`
) -> Panel:  # shows itself in a notebook
    "The explorer."
    try:
        import ipywidgets
    except ImportError as e:
        raise ImportError(
            "the explorer needs ipywidgets, which does not come with mmccd alone: pip install 'mmccd[notebooks]'"
        ) from e
    if isinstance(subject, (str, Path)):
        subject = file_subject(subject, view.get("input"))
    explorer = Explorer(subject, weights, device)
    return Panel(explorer, explorer.first_view(**view), out)
