"The explorer as a person meets it: real servers, a real browser, keys and clicks, and the pixels on the screen."

import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from browser import (
    KINDS,
    await_picture,
    missing,
    number_of,
    open_notebook,
    other_pixels,
    outputs_in_red,
    page,
    picture,
    pixels,
    server,
    wait_until,
)
from PIL import Image

from mmccd.cases.phantoms import write_phantom
from mmccd.explorer.canvas import FOOTER, HEADER
from mmccd.explorer.explorer import Explorer
from mmccd.explorer.subjects import file_subject, phantom_subject
from mmccd.explorer.view import View
from mmccd.phantom import make_phantom
from mmccd.scoring import dice, precision, recall

ROOT = Path(__file__).resolve().parents[2]
CELL = 'from mmccd.explorer import explore; panel = explore(device="cpu", out="kept"); panel'
CONTROLS = {
    "kind",
    "subject-seed",
    "place",
    "path",
    "open",
    "upload",
    "twin",
    "start",
    "width",
    "vertical",
    "sampler",
    "swept",
    "play-strips",
    "input",
    "target",
    "steps",
    "step",
    "play-steps",
    "seed",
    "device",
    "threshold",
    "calibrated",
    "rows",
    "save-png",
    "save-steps",
    "save-strips",
    "show-lines",
}
PICTURE = ".x-picture"
COUNT_PICTURES = """() => {
  window.drawn = 0;
  new MutationObserver(all => { window.drawn += all.length })
    .observe(document.querySelector('.x-picture'), {attributes: true, attributeFilter: ['src']})
}"""
DISABLED = """() => [...document.querySelectorAll('[class*=x-] :disabled, [class*=x-]:disabled')]
  .map(e => e.closest('[class*=" x-"]')?.className)"""
pytestmark = pytest.mark.browser
if missing():
    pytest.skip(missing(), allow_module_level=True)


# what is on the screen


def handle(p, name):
    return p.locator(f".x-{name} .noUi-handle")


def reads(p, name):
    return p.locator(f".x-{name} .widget-readout").inner_text()


def text(p):
    return p.locator(".x-text").inner_text()


def await_text(p, selector, words):
    "Wait until `words` stand there."
    p.wait_for_function(
        "([s, w]) => [...document.querySelectorAll(s)].some(e => e.innerText.includes(w))",
        arg=[selector, words],
        polling=50,
    )


def await_view(p, explorer, view):
    "Wait until the page shows this view: the picture, and the words, which come after it; the controls may come later."
    await_picture(p, PICTURE, explorer.image(view))
    wait_until(lambda: text(p) == explorer.describe(view), 120, f"the words {explorer.describe(view)!r}")


def lines(p):
    "The Python lines on the screen, which are then folded away."
    p.locator(".x-show-lines").click()
    said = p.locator(".x-lines pre").inner_text()
    p.locator(".x-show-lines").click()
    p.locator(".x-lines pre").wait_for(state="detached")
    return said


def view_of(p):
    "The view that the page says it shows."
    return eval(re.search(r"^view = (View\(.*\))$", lines(p), re.M)[1], {"View": View})


def scores_shown(p):
    return re.findall(r"\d\.\d\d", p.locator(".x-scores").inner_text())


def coloured(p, explorer):
    "How many pixels of the map in one row of tiles are neither black nor grey."
    seen = picture(p, PICTURE).astype(int)
    w = seen.shape[1] // len(explorer.tiles(explorer.first_view()))
    tile = seen[HEADER:-FOOTER, 8 * w : 9 * w]
    return int((np.ptp(tile, -1) > 40).sum())


def alert(p, words, was):
    "The one sentence about a file; then the explorer goes on."
    await_text(p, ".x-message [role=alert]", words)
    said = p.locator(".x-message").inner_text().strip()
    assert not re.search(r"\n|Unexpected|Traceback|[.:;] [A-Z]", said), said
    assert pixels(p, PICTURE) == was
    handle(p, "start").press("ArrowRight")
    now = other_pixels(p, PICTURE, was)
    p.locator(".x-message [role=alert]").wait_for(state="detached")
    return now


def upload(p, files):
    "Choose files, as a person does in the dialogue."
    with p.expect_file_chooser() as chooser:
        p.locator(".x-upload").click()
    chooser.value.set_files(files)


# servers and pages


@pytest.fixture(scope="module", autouse=True)
def alike():
    """Kernels compute what this process computes, bit for bit.

    They order sets alike, too, since ipywidgets sends what was set at once in the order of a set.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as m:
        for name in ("OMP_NUM_THREADS", "PYTHONHASHSEED"):
            m.setenv(name, "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def explorer():
    return Explorer()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    "kind -> (address, folder of the kernels), each started when it is first asked for."
    from contextlib import ExitStack

    place, running = tmp_path_factory.mktemp("served"), {}
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(book, place / "demo.ipynb")
    with ExitStack() as stack:

        def start(kind):
            if kind not in running:
                running[kind] = stack.enter_context(server(kind, place / "demo.ipynb", place / kind)), place / kind
            return running[kind]

        yield start


def opened(kind):
    "A fixture: a page of one app with the explorer, shared by tests; none may leave an error in the console."

    @pytest.fixture(scope="module")
    def fixture(served):
        with page(1280, 800) as p:
            open_notebook(p, kind, served(kind)[0])
            p.set_default_timeout(120_000)
            p.folder = served(kind)[1]
            yield p
            assert not p.errors

    return fixture


lab, notebook, voila, visitor = map(opened, ("lab", "notebook", "voila", "voila"))  # `visitor` looks at many subjects


# all three


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k == "notebook" else ()) for k in KINDS])
def test_it_runs_and_follows_the_keys(kind, request, explorer):
    p, first = request.getfixturevalue(kind), explorer.first_view()
    await_view(p, explorer, first)
    assert p.errors == []
    assert outputs_in_red(p) == []
    handle(p, "start").press("ArrowRight")
    moved = replace(first, start=first.start + 1)
    await_view(p, explorer, moved)
    assert number_of(explorer.image(moved)) != number_of(explorer.image(first))
    assert f" {moved.start} " in text(p)
    assert f" {moved.start} " not in explorer.describe(first)
    assert p.errors == []
    assert outputs_in_red(p) == []
    handle(p, "start").press("ArrowLeft")
    await_view(p, explorer, first)


# it moves


def test_play_fills_the_map(voila, explorer):
    p, view = voila, replace(view_of(voila), swept=0, by_hand=True)
    handle(p, "swept").press("Home")
    await_view(p, explorer, view)
    n, counts, seen, now = len(explorer.masks(view)), [coloured(p, explorer)], [], pixels(p, PICTURE)
    p.locator(".x-play-strips button").first.click()
    while not seen or seen[-1] != str(n):
        now = other_pixels(p, PICTURE, now)
        counts.append(coloured(p, explorer))
        seen.append(reads(p, "swept"))
    assert len(set(seen)) > 1
    assert seen == sorted(seen, key=int)
    await_view(p, explorer, replace(view, swept=n, by_hand=False))
    assert coloured(p, explorer) > counts[0] > 0
    handle(p, "swept").press("Home")
    await_view(p, explorer, view)


def test_play_goes_through_the_steps(lab, explorer):
    p, view = lab, view_of(lab)
    handle(p, "step").press("Home")
    await_view(p, explorer, replace(view, step=1))
    seen, now = [], pixels(p, PICTURE)
    p.locator(".x-play-steps button").first.click()
    while not seen or seen[-1] != str(view.steps):
        now = other_pixels(p, PICTURE, now)
        seen.append(reads(p, "step"))
    assert len(set(seen)) > 1
    assert seen == sorted(seen, key=int)
    await_view(p, explorer, replace(view, step=view.steps))


def test_a_burst_of_keys_ends_at_the_last(voila, explorer):
    "Old requests are dropped: a slow sampler makes fewer pictures than there are keys, and the last is right."
    p, was, n = voila, view_of(voila), 30
    for _ in range(6):
        handle(p, "steps").press("PageUp")
    view = replace(was, steps=was.steps + 30, step=was.steps + 30)
    await_view(p, explorer, view)
    assert reads(p, "steps") == reads(p, "step") == str(view.steps)
    handle(p, "start").press("Home")
    await_view(p, explorer, view := replace(view, start=1 - view.width, by_hand=True))
    p.evaluate(COUNT_PICTURES)
    for _ in range(n):
        p.keyboard.press("ArrowRight", delay=30)  # as when the key is held down
    last = replace(view, start=view.start + n)
    await_view(p, explorer, last)
    assert p.evaluate("window.drawn") < n / 3
    assert reads(p, "start") == str(last.start)
    for _ in range(6):
        handle(p, "steps").press("PageDown")
    await_view(p, explorer, replace(last, steps=was.steps, step=was.steps))


# the threshold


def test_scores_are_those_of_scoring(voila, explorer):
    p, view, seen = voila, view_of(voila), []
    view = replace(view, swept=len(explorer.masks(view)), by_hand=False)
    handle(p, "swept").press("End")
    await_view(p, explorer, view)
    found = explorer.map(view)[explorer.slice("brain", view)]
    truth = explorer.slice("lesion", view)[explorer.slice("brain", view)]
    for keys in (["Home"], ["PageUp"] * 4, ["PageUp"] * 8 + ["ArrowLeft"]):
        was = pixels(p, PICTURE)
        for k in keys:
            handle(p, "threshold").press(k)
        other_pixels(p, PICTURE, was)
        at = float(reads(p, "threshold"))
        wanted = [f"{f(found > at, truth):.2f}" for f in (dice, precision, recall)]
        wait_until(lambda wanted=wanted: scores_shown(p) == wanted, 120, f"{wanted} at {at}")
        await_view(p, explorer, replace(view, threshold=at))
        seen.append(wanted)
    assert len({tuple(s) for s in seen}) == 3
    assert seen[0][2] == "1.00"
    calibrated = explorer.threshold(view)
    p.locator(".x-calibrated").click()
    await_view(p, explorer, replace(view, threshold=calibrated))
    wanted = [f"{v:.2f}" for v in explorer.scores(replace(view, threshold=calibrated)).values()]
    wait_until(
        lambda: reads(p, "threshold") == f"{calibrated:.2f}" and scores_shown(p) == wanted,
        120,
        f"{wanted} at {calibrated}",
    )


# to take away


def test_a_picture_is_saved_and_offered(voila):
    p, before = voila, pixels(voila, PICTURE)
    p.locator(".x-save-png").click()
    link = p.locator(".x-message a[download$='.png']")
    with p.expect_download() as got:
        link.click()
    data = Path(got.value.path()).read_bytes()
    assert number_of(Image.open(BytesIO(data))) == pixels(p, PICTURE) == before
    assert (p.folder / "kept" / got.value.suggested_filename).read_bytes() == data


def test_a_gif_is_saved(voila):
    p, view = voila, view_of(voila)
    p.locator(".x-save-steps").click()
    with p.expect_download() as got:
        p.locator(".x-message a[download$='.gif']").click()
    file = p.folder / "kept" / got.value.suggested_filename
    assert file.read_bytes() == Path(got.value.path()).read_bytes()
    with Image.open(file) as gif:
        assert gif.format == "GIF"
        assert gif.n_frames == view.steps
        assert gif.size == picture(p, PICTURE).shape[1::-1]


def test_the_lines_reproduce_the_screen(voila, capsys):
    *first, last = lines(voila).splitlines()
    names = {}
    exec("\n".join(first), names)
    assert number_of(eval(last, names)) == pixels(voila, PICTURE)
    assert capsys.readouterr().out.strip() == text(voila)


# other subjects


def test_other_phantoms(visitor):
    p, seen = visitor, {pixels(visitor, PICTURE)}
    for kind, seed in (("ms", 404), ("ms", 7)):
        p.locator(".x-kind select").select_option(kind)
        p.locator(".x-subject-seed input").fill(str(seed))
        p.keyboard.press("Enter")
        e = Explorer(phantom_subject(kind, seed))
        await_view(p, e, e.first_view())
        seen.add(pixels(p, PICTURE))
    assert len(seen) == 3


@pytest.fixture(scope="module")
def patient(tmp_path_factory):
    "The folder of a phantom, small enough to upload."
    place = tmp_path_factory.mktemp("patients")
    write_phantom(make_phantom("glioma", 11, 0, range(76, 84)), place)
    return next(f for f in place.iterdir() if f.is_dir())


def test_bad_uploads_are_refused_in_one_sentence(visitor, tmp_path, patient):
    whole = next(patient.glob("*flair.nii.gz")).read_bytes()
    files = {"bad_flair.nii.gz": b"This is no image.\n" * 50, "cut_flair.nii.gz": whole[: len(whole) // 2]}
    now = pixels(visitor, PICTURE)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        upload(visitor, [str(tmp_path / name)])
        now = alert(visitor, name, now)


def test_a_case_is_uploaded(visitor, patient):
    files = sorted(f for f in patient.iterdir() if f.is_file())
    assert len(files) > 3
    assert max(f.stat().st_size for f in files) < 10e6
    p, like = visitor, view_of(visitor)
    upload(p, [str(f) for f in files])
    e = Explorer(replace(file_subject(patient), twin=None))
    view = e.first_view(steps=like.steps, width=like.width)
    await_view(p, e, view)
    assert patient.name in text(p)
    wait_until(
        lambda: p.locator(".x-kind select").input_value() == "from files", 120, "the control to say 'from files'"
    )


def test_paths(visitor, patient, tmp_path):
    p = visitor
    p.locator(".x-path input").fill(str(tmp_path / "nowhere"))
    p.locator(".x-open").click()
    alert(p, "nowhere", pixels(p, PICTURE))
    write_phantom(make_phantom("infarct", 5, 0, range(78, 84)), tmp_path)
    other = next(f for f in tmp_path.iterdir() if f.is_dir())
    p.locator(".x-path input").fill(str(other))
    p.locator(".x-open").click()
    e = Explorer(file_subject(other))
    await_view(p, e, e.first_view())


# without a mouse


def test_tab_reaches_every_control(voila):
    p, met = voila, set()
    p.locator(".x-kind select").focus()
    dead = set(p.evaluate(DISABLED))
    for _ in range(3 * len(CONTROLS)):
        met |= set(
            re.findall(
                r"(?:^| )x-([a-z-]+)",
                p.evaluate("() => document.activeElement.closest('[class*=\" x-\"]')?.className || ''"),
            )
        )
        p.keyboard.press("Tab")
    assert CONTROLS - met <= set(re.findall(r"(?:^| )x-([a-z-]+)", " ".join(filter(None, dead))))


# the guide


@pytest.mark.slow
def test_the_guide_runs_in_jupyterlab(served):
    address, root = served("lab")
    for name in ("nbs/guides/explorer.ipynb", "data/results/comparison.json"):  # which the guide reads
        (root / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, root / name)
    with page(1280, 800) as p:
        open_notebook(p, "lab", address.replace("demo.ipynb", "nbs/guides/explorer.ipynb"), seconds=600)
        assert outputs_in_red(p) == []
        assert p.errors == []
        assert picture(p, PICTURE).std() > 10
