"""The explorer as a page: a notebook with one cell, and the Jupyter server that shows it on this computer only."""

import html
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from mmccd.extras import require
from mmccd.runtime import sigterm_as_interrupt

SERVERS = {"voila": "voila", "lab": "jupyterlab", "notebook": "notebook"}  # by name: the Python module that serves
PAGES = {"voila": "/", "lab": "/doc/tree/explorer.ipynb", "notebook": "/notebooks/explorer.ipynb"}
POLICY = (  # of the page: whatever asks another computer for something is stopped by the browser
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws://127.0.0.1:{port}; "
    "frame-ancestors 'self'"
)
TEMPLATE = """{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}{{ super() | replace("https://", "data:text/css,") }}{%- endblock notebook_css -%}
"""  # that of Voilà asks a server on the internet for two stylesheets with icons that nothing here needs
MAX_UPLOAD = 500 * 10**6  # bytes of a message from the page; the servers' own limit of 10 MB is too small for scans


def explorer_notebook(call: str, options: Mapping[str, Any], server: str = "voila") -> dict[str, Any]:
    """A notebook, ready for JSON, with a cell of text and a cell that opens the explorer.

    Args:
        call: Python expression that makes the subject, as `Subject.call`.
        options: Keyword arguments of `explore`.
        server: A key of `SERVERS`; Voilà runs the cell by itself and shows no code.
    """
    how = "" if server == "voila" else "\n\nRun the cell below: click into it and press Shift-Enter."
    text = (
        "# What a masked cycle sees\n\nHide a strip, and watch a network predict what is under it. "
        f"For research and teaching, not a medical device.{how}"
    )
    arguments = "".join(f"    {line},\n" for line in (call, *(f"{k}={v!r}" for k, v in options.items())))
    code = f"from mmccd.explorer import explore, {call.split('(')[0]}\n\nexplore(\n{arguments})"
    cells = [
        {"cell_type": "markdown", "id": "words", "metadata": {}, "source": text},
        {
            "cell_type": "code",
            "id": "explorer",
            "metadata": {},
            "source": code,
            "execution_count": None,
            "outputs": [],
        },
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def check_server(server: str, port: int) -> int:
    """Check that a server is installed and that it can listen.

    Args:
        server: A key of `SERVERS`.
        port: The port, or 0 for any.

    Returns:
        A free port.

    Raises:
        ValueError: If there is no such server, something is not installed, or the port is taken.
    """
    if server not in SERVERS:
        raise ValueError(f"unknown server {server!r} after --with: choose {', '.join(SERVERS)}")
    require("the page", SERVERS[server], "ipywidgets", "ipykernel", instead="save pictures with --save DIR")
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


def server_command(server: str, folder: str | Path, port: int) -> list[str]:
    """The command that serves `explorer.ipynb` in `folder` on a free port, to this computer only."""
    headers = {"Content-Security-Policy": POLICY.format(port=port)}
    settings = f"tornado_settings={ {'websocket_max_message_size': MAX_UPLOAD, 'headers': headers} }"
    if server == "voila":
        traits = "ip=127.0.0.1", "port_retries=0", "auto_token=True", settings, f"connection_dir_root={folder}"
        words = [f"{folder}/explorer.ipynb", *(f"--Voila.{t}" for t in traits), "--VoilaConfiguration.template=mmccd"]
    else:  # --allow-root: in a container one is root
        traits = f"root_dir={folder}", "port_retries=0", settings
        words = ["--ip=127.0.0.1", *(f"--ServerApp.{t}" for t in traits), "--allow-root"]
    run = [sys.executable, "-m", "mmccd.explorer.served", str(folder), SERVERS[server]]
    return [*run, *words, "--no-browser", f"--port={port}"]


def prepare_folder(folder: str | Path, notebook: Mapping[str, Any], token: str) -> dict[str, str]:
    """Write notebook and settings into an existing folder, and return the environment of the server.

    The token stands in the environment alone, never in a file or on the command line.
    """
    folder = Path(folder)
    (folder / "explorer.ipynb").write_text(json.dumps(notebook, indent=1), encoding="utf-8")
    news = folder / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    # no questions in front of a class
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}', encoding="utf-8")
    template = folder / "share/voila/templates/mmccd"
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}', encoding="utf-8")
    (template / "index.html.j2").write_text(TEMPLATE, encoding="utf-8")
    return os.environ | {
        "JUPYTER_TOKEN": token,
        "JUPYTER_PATH": os.pathsep.join([str(folder / "share"), *filter(None, [os.environ.get("JUPYTER_PATH")])]),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
    }


@contextmanager
def running(command: Sequence[str], folder: str | Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in `folder` while the context is open, its output in the file `log`; its kernels end with it.

    Its standard input is a pipe that nothing is written into; see `served` for what that is good for.
    """
    with open(Path(folder) / "log", "wb") as log:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
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


def is_listening(port: int) -> bool:
    """Whether something on this computer accepts connections on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder that nobody else may look into, while the context is open."""
    with tempfile.TemporaryDirectory(prefix="mmccd-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def write_redirect(url: str, folder: Path) -> Path:
    """Write a page that leads to `url`, which only its owner can read.

    A browser is given this file, not the address: the token in that would stand in its command line, for all to see.
    """
    path = folder / "open.html"
    with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(
            f'<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={html.escape(url)}">'
        )
    return path


def serve(
    server: str, notebook: Mapping[str, Any], port: int, on_ready: Callable[[str], object], folder: Path | None = None
) -> None:
    """Serve a notebook until the server ends or the process is interrupted, and leave nothing behind.

    Args:
        server: A key of `SERVERS`.
        notebook: From `explorer_notebook`.
        port: A free port.
        on_ready: Called with the address of the page once the server answers.
        folder: An empty `private_folder` for the server's files; None: one of its own.

    Raises:
        ValueError: If the server ends by itself with an error.
        KeyboardInterrupt: On Ctrl-C, SIGTERM or SIGHUP.
    """
    token = secrets.token_hex(24)
    url = f"http://127.0.0.1:{port}{PAGES[server]}?token={token}"
    with sigterm_as_interrupt(), nullcontext(folder) if folder else private_folder() as folder:
        env = prepare_folder(folder, notebook, token)
        with running(server_command(server, folder, port), folder, env) as process:
            while process.poll() is None and not is_listening(port):
                time.sleep(0.1)
            if process.poll() is None:
                on_ready(url)
            while process.poll() is None:
                time.sleep(0.2)
            last_line = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
            if process.returncode:
                raise ValueError(f"the server ended by itself, and its last words were: {last_line}")
