""""""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from mmccd.runtime import sigterm_as_interrupt

APPS = {"voila": "voila", "lab": "jupyterlab", "notebook": "notebook"}  # by name: the module that serves


PAGES = {"voila": "/", "lab": "/doc/tree/explorer.ipynb", "notebook": "/notebooks/explorer.ipynb"}


def explorer_notebook(
    call: str,  # Python expression that makes the subject
    said: dict,  # keyword arguments of `explore`
    app="voila",  # key of `APPS`
) -> dict:  # a notebook, for JSON
    "One cell that says what it is, and one that does it."
    how = "" if app == "voila" else "\n\nRun the cell below: click into it and press Shift-Enter."
    text = f"# What a masked cycle sees\n\nHide a strip, and watch a network imagine what is under it. For research and teaching, not a medical device.{how}"
    lines = [call, *(f"{k}={v!r}" for k, v in said.items())]
    code = (
        f"from mmccd.explore import explore, {call.split('(')[0]}\n\nexplore(\n"
        + "".join(f"    {line},\n" for line in lines)
        + ")"
    )
    cells = [
        dict(cell_type="markdown", id="words", metadata={}, source=text),
        dict(cell_type="code", id="explorer", metadata={}, source=code, execution_count=None, outputs=[]),
    ]
    kernel = dict(name="python3", display_name="Python 3", language="python")
    return dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=kernel), cells=cells)


UPLOAD = 500 * 10**6  # bytes of a message from the page


def check_app(
    app: str,  # as given
    port: int,  # 0: any
) -> int:  # a free port
    "Refuse what is not installed or not free."
    if app not in APPS:
        raise ValueError(f"unknown server {app!r} after --with: choose {', '.join(APPS)}")
    missing = [m for m in (APPS[app], "ipywidgets", "ipykernel") if find_spec(m) is None]
    more = " notebook" * ("notebook" in missing)
    if missing:
        raise ValueError(
            f"the page needs {' and '.join(missing)}, not installed with mmccd alone: pip install 'mmccd[notebooks]'{more}; or save pictures with --save DIR"
        )
    with socket.socket() as s:
        if os.name == "posix":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError as e:
            raise ValueError(
                f"the port {port} cannot be used ({e.strerror}): choose another, or leave --port out"
            ) from e
        return s.getsockname()[1]


def server_line(
    app: str,  # key of `APPS`
    folder,  # where explorer.ipynb lies
    port: int,  # a free one
) -> list:  # words of a command
    "The command that serves it, to this computer only."
    large = f"tornado_settings={{'websocket_max_message_size': {UPLOAD}}}"
    own = [
        f"--{app.capitalize()}.{w}"
        for w in ("ip=127.0.0.1", "port_retries=0", "auto_token=True", large, f"connection_dir_root={folder}")
    ]
    jupyter = [
        "--ip=127.0.0.1",
        f"--ServerApp.root_dir={folder}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.{large}",
        "--allow-root",
    ]  # in a container one is root
    words = [f"{folder}/explorer.ipynb", *own] if app == "voila" else jupyter
    return [sys.executable, "-m", APPS[app], *words, "--no-browser", f"--port={port}"]


def server_folder(
    folder,  # that exists
    book: dict,  # from `explorer_notebook`
    token: str,  # for the page
) -> dict:  # environment of the server
    "Write what the server needs."
    folder = Path(folder)
    (folder / "explorer.ipynb").write_text(json.dumps(book, indent=1))
    news = folder / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')  # nobody wants to be asked in front of a class
    return os.environ | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }


@contextmanager
def running(
    line,  # words of a command
    folder,  # where it runs
    env,  # its environment
):  # the process
    "A server, for as long as it is wanted; its kernels end with it."
    with open(Path(folder) / "log", "wb") as log:
        server = subprocess.Popen(
            line, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield server
    finally:
        server.terminate()
        try:
            server.wait(20)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            server.kill()
            server.wait()


def answers(
    port: int,  # of this computer
) -> bool:
    "Does anybody listen?"
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def serve(
    app: str,  # key of `APPS`
    book: dict,  # from `explorer_notebook`
    port: int,  # a free one
    browser: bool = True,  # open the page, or only say where it is?
):
    "Serve a notebook until it is stopped, and leave nothing behind."
    import webbrowser

    token = secrets.token_hex(24)
    url = f"http://127.0.0.1:{port}{PAGES[app]}?token={token}"
    with sigterm_as_interrupt(), tempfile.TemporaryDirectory(prefix="mmccd-", ignore_cleanup_errors=True) as folder:
        with running(server_line(app, folder, port), folder, server_folder(folder, book, token)) as server:
            while server.poll() is None and not answers(port):
                time.sleep(0.1)
            if server.poll() is None:
                print(f"The explorer is at {url}\nCtrl-C ends it.", flush=True)
            if browser and server.poll() is None:
                webbrowser.open(url)
            while server.poll() is None:
                time.sleep(0.2)
            said = (Path(folder) / "log").read_text(errors="replace").strip().split("\n")[-1]
            if server.returncode:
                raise ValueError(f"the server ended by itself, and the last it said was: {said}")
