"`mmccd explore` with a real server: it starts, answers this computer only, and ends with everything it started."

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from mmccd import runtime
from mmccd.cases.phantoms import write_phantom
from mmccd.explorer import server
from mmccd.explorer.server import (
    MAX_UPLOAD,
    check_server,
    explorer_notebook,
    is_listening,
    prepare_folder,
    running,
    serve,
    server_command,
)
from mmccd.phantom import make_phantom

COMMAND = [sys.executable, "-c", "import sys; from mmccd.cli import main; sys.exit(main())", "explore"]


ASK = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
)  # no proxy on the way to this computer


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    "The folder of a case with a lesion and its healthy twin."
    return Path(write_phantom(make_phantom("glioma", 7, 0, range(75, 78)), tmp_path_factory.mktemp("cases")))


def test_jupyter_takes_its_settings(tmp_path):
    "The options of the command exist, and have the values given; for Voila the real page below shows it."
    pytest.importorskip("jupyterlab")
    env = prepare_folder(tmp_path, explorer_notebook("phantom_subject()", {}), "secret")
    done = subprocess.run(
        [sys.executable, "-m", *server_command("lab", tmp_path, 1234)[4:], "--show-config-json"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["ServerApp"]
    tornado = ast.literal_eval(str(said["tornado_settings"]))
    assert tornado["websocket_max_message_size"] == MAX_UPLOAD
    assert "127.0.0.1:1234" in tornado["headers"]["Content-Security-Policy"]
    assert (said["ip"], int(said["port"]), int(said["port_retries"]), said["root_dir"]) == (
        "127.0.0.1",
        1234,
        0,
        str(tmp_path),
    )


def never(url):
    raise AssertionError(f"nothing answers at {url}")


def test_a_server_that_dies_gets_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dies = [sys.executable, "-c", "print('began'); raise SystemExit('no template')"]
    monkeypatch.setattr(server, "server_command", lambda *a: dies)
    with pytest.raises(ValueError, match=r"ended by itself, and its last words were: no template$"):
        serve("voila", {}, check_server("voila", 0), never)
    assert not names(tmp_path)


LISTENS = """
import socket, sys, time
s = socket.socket()
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen()
c = s.accept()
sys.exit(0) if sys.argv[2] == "end" else time.sleep(600)
"""


def listens(monkeypatch, folder, then):
    "Serve with a process that answers one connection and then ends, or stays; what it was started with, in a list."
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(server, "server_command", lambda *a: [sys.executable, "-c", LISTENS, str(a[-1]), then])
    real, started = subprocess.Popen, []

    def start(*args, **options):
        started.append((real(*args, **options), options))
        return started[-1][0]

    monkeypatch.setattr(subprocess, "Popen", start)
    return started


def test_it_says_where_it_is_once_there_is_an_answer(monkeypatch, tmp_path):
    started, urls = listens(monkeypatch, tmp_path, "end"), []
    port = check_server("lab", 0)
    serve("lab", {}, port, urls.append)  # a server shut down from its own menu is no error
    token = started[0][1]["env"]["JUPYTER_TOKEN"]
    assert urls == [f"http://127.0.0.1:{port}/doc/tree/explorer.ipynb?token={token}"]
    assert len(token) > 30
    assert started[0][1]["start_new_session"]
    assert not names(tmp_path)


@pytest.fixture
def handled():
    "Set a signal's handler until the test ends."
    was = {}

    def handle(number, handler):
        was.setdefault(number, signal.signal(number, handler))

    yield handle
    for number, handler in was.items():
        signal.signal(number, handler)


def test_what_is_ignored_stays_so(handled):
    "A server started with `nohup` outlives the terminal."
    for number in (signal.SIGTERM, signal.SIGHUP):
        handled(number, signal.SIG_IGN)
    with runtime.sigterm_as_interrupt():
        os.kill(os.getpid(), signal.SIGHUP)
    handled(signal.SIGTERM, signal.SIG_DFL)
    with runtime.sigterm_as_interrupt():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP"])
def test_other_ways_to_stop(monkeypatch, tmp_path, how):
    number = getattr(signal, how)
    started, before = listens(monkeypatch, tmp_path, "stay"), signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        serve("lab", {}, check_server("lab", 0), lambda url: os.kill(os.getpid(), number))
    assert started[0][0].returncode is not None
    assert not names(tmp_path)
    assert signal.getsignal(number) == before


class Deaf:
    "A process that does not end when it is told to, while somebody presses Ctrl-C."

    def __init__(self):
        self.calls = []

    def terminate(self):
        self.calls.append("terminate")

    def kill(self):
        self.calls.append("kill")

    def wait(self, *limit):
        if limit:
            raise KeyboardInterrupt


def test_ctrl_c_while_it_ends_kills(monkeypatch, tmp_path):
    deaf = Deaf()
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: deaf)
    with running([], tmp_path, {}):
        pass
    assert deaf.calls == ["terminate", "kill"]


ALONE = """
import os, sys, time
from mmccd.explorer.server import running
folder = sys.argv[1]
command = [sys.executable, "-m", "mmccd.explorer.served", folder, "http.server", "0"]
with running(command, folder, os.environ) as s:
    print(s.pid, flush=True)
    time.sleep(600)
"""


def test_a_server_ends_with_whoever_started_it(tmp_path):
    "However that ends; its folder goes with it."
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "served"
    folder.mkdir()
    mine = subprocess.Popen([sys.executable, "-c", ALONE, str(folder)], stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(mine.stdout.readline()))
    while "Serving" not in (folder / "log").read_text():
        time.sleep(0.05)
    mine.kill()
    mine.wait()
    assert not psutil.wait_procs([server], timeout=200)[1]
    assert not folder.exists()


def ask(url, timeout):
    "The address one ends at, and the page."
    with ASK.open(url, timeout=timeout) as page:
        return page.geturl(), page.read().decode()


async def send_large(url, page, megabytes):
    "Send the kernel behind a page a question of that size, as an upload is; its answer."
    from tornado.websocket import websocket_connect

    kernel = re.search(r'"kernelId": *"([0-9a-f-]{36})"', page)[1]
    base, _, token = url.partition("?")
    line = await websocket_connect(f"{base.replace('http:', 'ws:')}api/kernels/{kernel}/channels?{token}")
    header = dict(
        msg_id="1",
        msg_type="kernel_info_request",
        session="test",
        username="",
        version="5.3",
        date="2024-01-01T00:00:00Z",
    )
    await line.write_message(
        json.dumps(
            dict(
                channel="shell",
                header=header,
                parent_header={},
                metadata={},
                buffers=[],
                content={"pad": "x" * (megabytes * 10**6)},
            )
        )
    )
    while (text := await line.read_message()) is not None:  # None: the server has hung up
        if json.loads(text)["header"]["msg_type"] == "kernel_info_reply":
            return json.loads(text)["content"]["status"]


def test_a_real_page_and_its_end(case, tmp_path):
    psutil = pytest.importorskip("psutil")
    for name in ("voila", "ipywidgets", "ipykernel"):
        pytest.importorskip(name)
    (tmp_path / "tmp").mkdir()
    env = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    mine = subprocess.Popen(
        [*COMMAND, str(case), "--slice", "76", "--device", "cpu", "--no-browser"],
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    timer = threading.Timer(600, mine.kill)
    timer.start()
    tree = []
    try:
        url = mine.stdout.readline().split()[-1]
        for _ in range(4000):
            try:
                ask(url.replace("/?", "/voila/static/voila.js?"), 5)
                break
            except OSError as e:
                assert mine.poll() is None, mine.stderr.read()
                if isinstance(e, urllib.error.HTTPError):
                    raise
                time.sleep(0.05)
        where, page = ask(url, 500)  # the kernel runs the cell before this comes
        assert "login" not in where
        assert "application/vnd.jupyter.widget-view+json" in page
        assert "What a masked cycle sees" in page
        assert "Traceback" not in page
        assert "file_subject" not in page  # no code on the screen
        assert not re.findall(r"<(?:link|script)[^>]*https?:", page)  # nothing is asked of other computers
        plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with plain.open(url.split("?")[0], timeout=200) as other:
            assert "login" in other.geturl()  # without the token
        assert asyncio.run(send_large(url, page, 30)) == "ok"  # the usual limit is 10
        tree = psutil.Process(mine.pid).children(recursive=True)
        assert sum("ipykernel_launcher" in " ".join(p.cmdline()) for p in tree) == 1
        assert names(tmp_path / "tmp")
        mine.send_signal(signal.SIGINT)
        _out, err = mine.communicate(timeout=200)
        assert mine.returncode == 130
        assert err == "mmccd: stopped\n"
        _gone, left = psutil.wait_procs(tree, timeout=120)
        assert not left
        assert not is_listening(int(url.split(":")[2].split("/")[0]))
        assert not names(tmp_path / "tmp")
    finally:
        timer.cancel()
        for p in [psutil.Process(mine.pid).children(recursive=True) if mine.poll() is None else tree][0]:
            if p.is_running():
                p.terminate()
        if mine.poll() is None:
            mine.kill()
        mine.wait()


def test_widgets_are_imported_when_they_are_needed():
    "The explorer without widgets needs neither ipywidgets nor pyplot, and importing the package alone loads nothing."
    code = """
import sys, mmccd.explorer
print("torch" in sys.modules, "numpy" in sys.modules)
mmccd.explorer.Explorer, mmccd.explorer.explore
print([m for m in ("ipywidgets", "IPython", "matplotlib.pyplot", "traitlets") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False False\n[]\n", "")
