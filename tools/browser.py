"""A notebook in a real browser against a real server, for tests and benchmarks of widgets.

    with server("lab", "demo.ipynb") as url, page(1280, 800) as p:  # "lab", "notebook" (Notebook 7) or "voila"
        open_notebook(p, "lab", url)  # opens it, runs all its cells, waits until `.x-picture` has pixels
        before = pixels(p, ".x-picture")  # a number that stands for all decoded pixels
        p.locator(".x-start .noUi-handle").press("ArrowRight")
        after = other_pixels(p, ".x-picture", before)

`missing()` says what a machine lacks for this. `p.errors` holds what the browser's console called an error.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64decode
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

KINDS = {"lab": "jupyterlab", "notebook": "notebook", "voila": "voila"}  # and the Python module of each server
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# what the console calls an error and does no harm
KNOWN = (
    # Voila's page asks a server on the internet for a font of icons; the icons of ipywidgets are there without it
    r"^Failed to load resource: net::\S+ \(https://cdn\.jsdelivr\.net/npm/@fortawesome/",
    # Voila loads the extension that Notebook 7 has for JupyterLab; a page without documents cannot use it
    r'#RUNTIME-012\s+args: \{"shareKey":"@jupyterlab/docregistry"\}.*/@jupyter-notebook/lab-extension/',
    # Notebook 7.6 reads its shortcuts before it has loaded them, in every notebook
    r"reading 'schema'\).*/static/notebook/notebook_core\.",
)
READY = {
    "lab": "/api/status?token=t",
    "notebook": "/api/status?token=t",
    "voila": "/voila/static/voila.js",
}  # each GET of Voilà's page would start a kernel
PLACE = {"lab": "/doc/tree/{}?token=t", "notebook": "/notebooks/{}?token=t", "voila": "/"}
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are in the page
    "docmanager-extension/plugin": {"autosave": False},
}
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)"
# A changed `src` proves nothing, since every update makes a new address: decode, and look at the pixels.
CANVAS = """const im = document.querySelector(selector);
  if (!im || !im.src) return null;
  try { await im.decode() } catch (e) { return null }
  const c = document.createElement('canvas');
  c.width = im.naturalWidth; c.height = im.naturalHeight;
  const g = c.getContext('2d'); g.drawImage(im, 0, 0);"""
PIXELS = f"""async selector => {{ {CANVAS}
  const d = g.getImageData(0, 0, c.width, c.height).data;
  let s = 0;
  for (let i = 0; i < d.length; i += 4) s = (Math.imul(s, 31) + d[i] * 65536 + d[i+1] * 256 + d[i+2]) | 0;
  return s
}}"""
WAIT = f"""async ([selector, is, value, end]) => {{
  const pixels = {PIXELS};
  end += Date.now();
  for (;;) {{
    const now = await pixels(selector);
    if (now !== null && (now === value) === is) return now;
    if (Date.now() > end) return null;
    await new Promise(r => setTimeout(r, 20))
  }}
}}"""


def chromium():
    "Where Chromium lies, or None."
    return next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)


def missing(*kinds):
    "What is not installed here, in a sentence, or nothing."
    lacks = [m for m in ("playwright", "ipywidgets", *(KINDS[k] for k in kinds or KINDS)) if find_spec(m) is None] + [
        "Chromium"
    ] * (not chromium())
    return f"not installed: {', '.join(lacks)}" if lacks else ""


# servers


def command(kind, name, port, root):
    "How a server is started."
    if kind == "voila":
        return [sys.executable, "-m", "voila", name, "--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"]
    return [
        sys.executable,
        "-m",
        KINDS[kind],
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=t",
        f"--ServerApp.root_dir={root}",
    ]


def answers(address):
    "Is anybody there?"
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def wait_until(true, seconds, what):
    "What `true` returns, once that is something."
    end = time.monotonic() + seconds
    while not (got := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.05)
    return got


@contextmanager
def server(kind, notebook, root=None, seconds=400):
    "The address of a copy of `notebook` on a server of its own; its kernels run in `root`, None: a temporary folder."
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        place, root = Path(place), Path(root or Path(place) / "root")
        root.mkdir(exist_ok=True)
        shutil.copy(notebook, root)
        for name, settings in SETTINGS.items():
            file = place / f"settings/@jupyterlab/{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings), encoding="utf-8")
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        own = {f"JUPYTER_{w.upper()}_DIR": str(place / w) for w in ("config", "runtime", "data")} | {
            "IPYTHONDIR": str(place / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(place / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(place / "workspaces"),
        }
        with open(place / "log", "w+", encoding="utf-8") as log:
            run = subprocess.Popen(
                command(kind, Path(notebook).name, port, root), cwd=root, env=os.environ | own, stdout=log, stderr=log
            )
            try:

                def up():
                    return answers(f"http://127.0.0.1:{port}{READY[kind]}") or run.poll() is not None

                wait_until(up, seconds, f"{kind} to answer")
                if run.poll() is not None:
                    raise RuntimeError(f"{kind} ended: {(place / 'log').read_text(encoding='utf-8')[-2000:]}")
                yield f"http://127.0.0.1:{port}{PLACE[kind].format(Path(notebook).name)}"
            finally:
                run.terminate()  # its kernels end with it
                try:
                    run.wait(30)
                except subprocess.TimeoutExpired:
                    run.kill()
                    run.wait()


# pages

LIVE = []  # the browser, while a page is open: Playwright runs once in a process


@contextmanager
def browser():
    "Chromium, shared by the pages that are open at the same time."
    if LIVE:
        yield LIVE[0]
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        LIVE.append(p.chromium.launch(executable_path=chromium(), args=FLAGS))
        try:
            yield LIVE[0]
        finally:
            LIVE.pop().close()


@contextmanager
def page(width=1280, height=800):
    "An empty page; what goes wrong in it is listed in its `errors`."
    with browser() as b:
        p = b.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        p.errors = []

        def note(text):
            return None if any(re.search(k, text, re.S) for k in KNOWN) else p.errors.append(text)

        p.on("console", lambda m: note(f"{m.text} ({m.location.get('url')})") if m.type == "error" else None)
        p.on("pageerror", lambda e: note(f"uncaught: {e}\n{e.stack}"))
        p.set_default_timeout(200_000)
        try:
            yield p
        finally:
            p.close()


def open_notebook(p, kind, url, selector=".x-picture", seconds=500):
    "Open it, run all, and wait until its picture has decoded pixels."
    p.goto(url, wait_until="domcontentloaded")
    if kind != "voila":
        run_all(p, url, seconds)
    other_pixels(p, selector, None, seconds)


def kernel_is_ready(p, url):
    "Does the kernel of this notebook, and not of another on the server, wait for orders of the page?"
    got = p.request.get("/".join(url.split("/")[:3]) + "/api/sessions?token=t")
    path = re.search(r"/(?:doc/tree|notebooks)/([^?]+)", url)[1]
    kernels = [s["kernel"] for s in got.json() if s["path"] == path] if got.ok else []  # not ok while one is started
    return any(k and k["execution_state"] == "idle" and k["connections"] for k in kernels)


def run_all(p, url, seconds=500):
    "Run all cells of the notebook in JupyterLab or Notebook 7, and wait for the last."
    from playwright.sync_api import TimeoutError as Late

    p.locator(".jp-CodeCell").first.wait_for()
    for _ in range(5):  # an order that comes before the page knows its kernel is silently lost: look, and give it again
        wait_until(lambda: kernel_is_ready(p, url), seconds, "the kernel")
        p.get_by_role("menuitem", name="Run", exact=True).click()
        p.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        try:
            p.wait_for_function(PROMPTS + r".some(t => /\[(\*|\d+)\]/.test(t))", timeout=5000)
            break
        except Late:
            pass
    else:
        raise TimeoutError("the kernel took no order to run all cells")
    p.wait_for_function("!" + PROMPTS + ".some(t => t.includes('*'))", timeout=1000 * seconds)


def outputs_in_red(p):
    "What cells wrote as errors or on the error stream."
    return p.locator(
        '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
    ).all_inner_texts()


def pixels(p, selector):
    "A number that stands for the decoded pixels of an image; None where it shows nothing."
    return p.evaluate(PIXELS, selector)


def awaited(p, selector, same, value, seconds):
    "The pixels, once they are, or are not, `value`."
    if (now := p.evaluate(WAIT, [selector, same, value, 1000 * seconds])) is None:
        raise TimeoutError(f"waited {seconds} s for {'certain' if same else 'other'} pixels in {selector}")
    return now


def other_pixels(p, selector, old, seconds=200):
    "The same, once it is not `old`."
    return awaited(p, selector, False, old, seconds)


def await_picture(p, selector, image, seconds=200):
    "Wait until the page shows `image`, pixel for pixel."
    awaited(p, selector, True, number_of(image), seconds)


def picture(p, selector):
    "The decoded pixels themselves: uint8 (h w 3)."
    address = p.evaluate(f"async selector => {{{CANVAS} return c.toDataURL('image/png') }}", selector)
    return np.asarray(Image.open(io.BytesIO(b64decode(address.split(",")[1]))).convert("RGB"))


def number_of(image):
    "`pixels`, reckoned here: of a PIL image, or of an array (h w 3)."
    rgb = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image).reshape(-1, 3).astype(np.uint32)
    powers = np.cumprod(np.append(np.uint32(1), np.full(len(rgb) - 1, 31, np.uint32)), dtype=np.uint32)[::-1]
    return int(((rgb @ np.array([65536, 256, 1], np.uint32)) * powers).sum(dtype=np.uint32).astype(np.int32))
