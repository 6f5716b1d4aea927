"`mmccd explore`: what is refused before a page opens, the notebook behind the page, its server and its end, and the pictures without a page."

import ast
import asyncio
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import mmccd.cli as cli
from mmccd import runtime
from mmccd.cases.phantoms import write_phantom
from mmccd.cli import explore
from mmccd.cli.app import main
from mmccd.explorer.saving import SAVED
from mmccd.explorer.server import (
    APPS,
    UPLOAD,
    answers,
    check_app,
    explorer_notebook,
    running,
    serve,
    server_folder,
    server_line,
)
from mmccd.phantom import make_phantom

COMMAND = [sys.executable, "-c", "import sys; from mmccd.cli import main; sys.exit(main())", "explore"]
ASK = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
)  # no proxy on the way to this computer


@pytest.fixture
def run(capsys):
    "Run a command line in this process: exit code, standard output, standard error."

    def go(*words):
        capsys.readouterr()
        code = main(["explore", *(str(w) for w in words)])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def served(monkeypatch):
    "What would be served: (app, notebook, port, browser)."
    calls = []
    monkeypatch.setattr(cli, "serve", lambda *a: calls.append(a))
    return calls


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    "The folder of a case with a lesion and its healthy twin."
    return Path(write_phantom(make_phantom("glioma", 7, 0, range(75, 78)), tmp_path_factory.mktemp("cases")))


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


# ------------------------------------------------------------------------------------------------- without a page
@pytest.fixture(scope="module")
def saved(case, tmp_path_factory):
    "A folder of pictures, and what was said about it as JSON."
    out = tmp_path_factory.mktemp("saved") / "new" / "view"
    to = out.parent.parent / "said.json"
    assert (
        main(
            [
                "explore",
                str(case),
                "--slice",
                "76",
                "--swept",
                "3",
                "--strip",
                "20:9",
                "--steps",
                "3",
                "--seed",
                "5",
                "--device",
                "cpu",
                "--save",
                str(out),
                "--json",
                str(to),
            ]
        )
        == 0
    )
    return out, json.loads(to.read_text())


def test_what_is_saved(saved):
    out, said = saved
    assert names(out) == sorted(SAVED.values())
    assert said["files"] == SAVED
    assert said["folder"] == str(out)
    v = said["view"]
    assert (v["place"], v["swept"], v["start"], v["width"], v["steps"], v["seed"], v["by_hand"]) == (
        76,
        3,
        20,
        9,
        3,
        5,
        True,
    )
    assert said["threshold"] == said["calibrated"] == v["threshold"]
    assert set(said["scores"]) == {
        "dice",
        "precision",
        "recall",
    }
    assert said["words"] + "\n" == (out / "view.txt").read_text()
    assert f"{said['scores']['dice']:.2f}" in said["words"]
    with Image.open(out / "steps.gif") as im:
        assert im.n_frames == 3
    with Image.open(out / "strips.gif") as im:
        assert im.n_frames > 3  # all masks of the sweep, not those of the view


def test_the_lines_make_the_same_picture(saved, tmp_path):
    out, said = saved
    more = "\nfrom pathlib import Path; Path('again.png').write_bytes(explorer.png(view))"
    done = subprocess.run(
        [sys.executable, "-c", (out / "view.py").read_text() + more], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == said["words"] + "\n", done.stderr
    assert (tmp_path / "again.png").read_bytes() == (out / "view.png").read_bytes()


def test_what_is_there_is_not_lost(run, case, saved):
    out, _ = saved
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    code, _, err = run(case, "--slice", 77, "--device", "cpu", "--save", out)
    assert code == 2
    assert "view.png is already there" in err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_overwrite_in_words(run, case, tmp_path):
    (tmp_path / "view.py").write_text("old")
    code, out, err = run(case, "--slice", 77, "--steps", 1, "--device", "cpu", "--save", tmp_path, "--overwrite")
    assert code == 0
    assert not err
    assert "axial slice 77" in out
    assert out.endswith(f"view.py in {tmp_path}\n")
    assert names(tmp_path) == sorted(SAVED.values())
    assert (tmp_path / "view.py").read_text() != "old"


@pytest.mark.parametrize("breaks", ["gif", "write"])
def test_whole_or_not_at_all(run, case, tmp_path, monkeypatch, breaks):
    from mmccd.explorer.explorer import Explorer

    real = Path.write_bytes

    def full(path, *a):
        if getattr(path, "name", "") == "view.png":
            return real(path, *a)  # the first is written, the second is not
        raise OSError(28, "No space left on device")

    if breaks == "gif":
        monkeypatch.setattr(Explorer, "gif", full)
    else:
        monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = run(case, "--slice", 76, "--steps", 1, "--device", "cpu", "--save", tmp_path / "a" / "b")
    assert code == 2
    assert "No space left" in err
    assert err.count("\n") == 1
    assert not out
    assert not (tmp_path / "a").exists()


# ------------------------------------------------------------------------------------------------- what is refused
BAD = [
    (["{}/nowhere"], "no such file or folder"),
    (["{}"], "Cannot read"),
    (["CASE", "--slice", "7"], "no axial slice 7"),
    (["CASE", "--input", "pd"], "pd"),
    (["CASE", "--input", "flair", "--target", "flair"], "no way from flair to flair"),
    (["CASE", "--strip", "28"], "START:WIDTH"),
    (["CASE", "--strip", "99:8"], "does not lie"),
    (["CASE", "--strip", "0:0"], "width must be 1"),
    (["CASE", "--swept", "some"], "a number of masks, or all"),
    (["CASE", "--swept", "1000"], "not 1000"),
    (["CASE", "--sampler", "slow"], "sampler must be one of"),
    (["CASE", "--weights", "cycle"], "masked cycles"),
    (["CASE", "--weights", "nonsense"], "nonsense"),
    (["CASE", "--weights", "CASE"], "config.json is missing"),
    (["CASE", "--kind", "ms"], "leave them out"),
    (["--kind", "tumour"], "'tumour'"),
    (["--device", "gpu"], "'gpu'"),
    (["--with", "jupyter"], "choose voila, lab, notebook"),
    (["--steps", "0"], "--steps"),
    (["--seed", "-1"], "--seed"),
    (["--json"], "--save"),
    (["--save", "{}/new", "--json", "x.txt"], ".json"),
    (["--nonsense"], "--nonsense"),
    (["a", "b"], "b"),
]


@pytest.mark.parametrize(("words", "says"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_refused_before_a_server_starts(run, served, case, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    before = names(case)
    for more in (
        [],
        ["--save", tmp_path / "new"] if "--save" not in words and words != ["--json"] and "--with" not in words else [],
    ):
        code, out, err = run(*(w.replace("CASE", str(case)).format(tmp_path) for w in words), *more)
        assert (
            code == 2
            and not out
            and err.startswith("mmccd: ")
            and err.count("\n") == 1
            and "--debug" not in err
            and says in err
        ), err
    assert not served
    assert not names(tmp_path)
    assert names(case) == before


def test_a_scan_that_does_not_say_what_it_is(run, served, case, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(next(case.glob("*_t1.nii.gz")).read_bytes())
    code, _out, err = run(scan)
    assert code == 2
    assert not served
    assert err.count("\n") == 1
    assert "modality" in err
    assert run(scan, "--input", "T1")[0] == 0
    assert "'t1'" in served[0][1]["cells"][1]["source"]


@pytest.mark.parametrize(
    ("app", "gone"),
    [
        ("voila", "voila"),
        ("lab", "jupyterlab"),
        ("notebook", "notebook"),
        ("voila", "ipywidgets"),
        ("lab", "ipykernel"),
    ],
)
def test_what_is_not_installed(run, served, monkeypatch, app, gone):
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == gone else importlib.util.find_spec(name))
    code, out, err = run("--with", app)
    assert code == 2
    assert not out
    assert not served
    assert err.count("\n") == 1
    assert f"needs {gone}," in err
    assert "pip install 'mmccd[notebooks]'" in err
    assert ("mmccd[notebooks]' notebook;" in err) == (gone == "notebook")


def test_a_port_that_is_taken(run, served):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        code, _out, err = run("--port", port)
        assert code == 2
        assert not served
        assert f"port {port} cannot be used" in err
        assert err.count("\n") == 1
    assert check_app("voila", port) == port
    assert check_app("voila", 0) not in (0, port)


# ------------------------------------------------------------------------------------------------- the notebook behind the page
def call_of(book):
    "The call in the code cell: positional source, keyword arguments as literals."
    call = ast.parse(book["cells"][1]["source"]).body[-1].value
    return ast.unparse(call.args[0]), {k.arg: ast.literal_eval(k.value) for k in call.keywords}


def test_the_notebook_says_what_was_asked_for(run, served, case, tmp_path, monkeypatch):
    import nbformat

    monkeypatch.chdir(case.parent)
    assert run(
        case.name,
        "--input",
        "FLAIR",
        "--slice",
        75,
        "--strip",
        "-2:9",
        "--swept",
        "all",
        "--seed",
        3,
        "--with",
        "lab",
        "--port",
        check_app("lab", 0),
        "--no-browser",
    ) == (0, "", "")
    app, book, port, browser = served[0]
    nbformat.validate(nbformat.from_dict(book))
    assert app == "lab"
    assert port
    assert not browser
    assert "Shift-Enter" in book["cells"][0]["source"]
    subject, said = call_of(book)
    assert subject == f"file_subject({str(case)!r})"
    assert said.pop("swept") > 1
    assert said == dict(
        weights="mmccd",
        device="auto",
        out=str(case.parent),
        place=75,
        input="flair",
        start=-2,
        width=9,
        sampler="fast",
        seed=3,
        by_hand=True,
    )


def test_the_notebook_runs(run, served, tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.chdir(tmp_path)
    assert run("--kind", "ms", "--subject-seed", 3, "--slice", 80, "--weights", "masked", "--device", "cpu")[0] == 0
    app, book, _port, browser = served[0]
    assert app == "voila"
    assert browser
    assert [c["cell_type"] for c in book["cells"]] == ["markdown", "code"]
    assert "Shift" not in book["cells"][0]["source"]
    source, space = book["cells"][1]["source"], {}
    exec(source.replace("\nexplore(", "\npanel = explore("), space)
    panel = space["panel"]
    view = panel.explorer.fit(panel.view())
    assert (panel.explorer.subject.kind, panel.explorer.subject.seed, view.place, panel.explorer.weights) == (
        "ms",
        3,
        80,
        "masked",
    )
    assert panel.out == str(tmp_path)
    assert panel.knobs["picture"].value == panel.explorer.png(view)


def test_a_run_is_found_from_the_folder_of_the_server(tmp_path, monkeypatch):
    (tmp_path / "mmccd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert explore.explorer_weights("mmccd", "") == "mmccd"
    (tmp_path / "mmccd" / "config.json").touch()  # a folder that holds a detector comes before a short name
    assert explore.explorer_weights("mmccd", "") == str(tmp_path / "mmccd")
    assert explore.explorer_weights("me/mine", "") == "me/mine"
    assert explore.explorer_weights("threshold", "t2") == "threshold-t2"


# ------------------------------------------------------------------------------------------------- the server
@pytest.mark.parametrize("app", APPS)
def test_server_line(app):
    if importlib.util.find_spec(APPS[app]) is None:
        pytest.skip(f"{APPS[app]} is not installed")
    line = server_line(app, "/folder", 1234)
    assert line[:3] == [sys.executable, "-m", APPS[app]]
    assert "--no-browser" in line
    assert "--port=1234" in line
    settings = {k.lstrip("-").split(".")[-1]: v for k, _, v in (w.partition("=") for w in line)}
    assert settings["ip"] == "127.0.0.1"
    assert settings["port_retries"] == "0"
    assert UPLOAD > 10**8
    assert ast.literal_eval(settings["tornado_settings"]) == {"websocket_max_message_size": UPLOAD}
    assert settings.get("auto_token") == ("True" if app == "voila" else None)
    assert "token" not in settings


@pytest.mark.parametrize("app", ["lab", "notebook"])
def test_jupyter_takes_its_settings(app, tmp_path):
    "The options of the line exist, and have the values given; for Voila the real page below shows it."
    if importlib.util.find_spec(APPS[app]) is None:
        pytest.skip(f"{APPS[app]} is not installed")
    env = server_folder(tmp_path, explorer_notebook("phantom_subject()", {}), "secret")
    done = subprocess.run(
        [*server_line(app, tmp_path, 1234), "--show-config-json"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["ServerApp"]
    assert ast.literal_eval(str(said["tornado_settings"])) == {"websocket_max_message_size": UPLOAD}
    assert (said["ip"], int(said["port"]), int(said["port_retries"]), said["root_dir"]) == (
        "127.0.0.1",
        1234,
        0,
        str(tmp_path),
    )


def test_what_the_server_needs(tmp_path):
    env = server_folder(tmp_path, {"cells": []}, "secret")
    assert env["JUPYTER_TOKEN"] == "secret"
    assert all(env[k].startswith(str(tmp_path)) for k in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"))
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_a_server_that_dies_gets_a_sentence(run, case, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        cli, "server_line", lambda *a: [sys.executable, "-c", "print('began'); raise SystemExit('no template')"]
    )
    code, out, err = run(case, "--no-browser")
    assert code == 2
    assert not out
    assert err == "mmccd: the server ended by itself, and the last it said was: no template\n"
    assert not names(tmp_path)


LISTENS = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); c = s.accept(); sys.exit(0) if sys.argv[2] == 'end' else time.sleep(600)"


def test_the_browser_is_opened_once_there_is_an_answer(monkeypatch, capsys, tmp_path):
    import webbrowser

    opened = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url))
    monkeypatch.setattr(cli, "server_line", lambda app, folder, port: [sys.executable, "-c", LISTENS, str(port), "end"])
    real, proof = subprocess.Popen, []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: proof.append(k) or real(*a, **k))
    serve("lab", {}, port := check_app("lab", 0))  # a server shut down from its own menu is no error
    token = proof[0]["env"]["JUPYTER_TOKEN"]
    assert opened == [f"http://127.0.0.1:{port}/doc/tree/explorer.ipynb?token={token}"]
    assert opened[0] in capsys.readouterr().out
    assert len(token) > 30
    assert proof[0]["start_new_session"]
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
    with runtime.sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP"])
def test_other_ways_to_stop(monkeypatch, capsys, tmp_path, how):
    before = signal.getsignal(getattr(signal, how))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        cli, "server_line", lambda app, folder, port: [sys.executable, "-c", LISTENS, str(port), "stay"]
    )
    real, started = subprocess.Popen, []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(real(*a, **k)) or started[-1])
    monkeypatch.setattr("webbrowser.open", lambda url: os.kill(os.getpid(), getattr(signal, how)))
    with pytest.raises(KeyboardInterrupt):
        serve("lab", {}, check_app("lab", 0))
    assert started[0].returncode is not None
    assert not names(tmp_path)
    assert signal.getsignal(getattr(signal, how)) == before


def test_ctrl_c_while_it_ends_kills(tmp_path):
    class Deaf:
        said = []

        def terminate(self):
            self.said.append("terminate")

        def kill(self):
            self.said.append("kill")

        def wait(self, *limit):
            if limit:
                raise KeyboardInterrupt

    deaf, real = Deaf(), cli.subprocess
    try:
        cli.subprocess = SimpleNamespace(
            **{k: getattr(real, k) for k in ("DEVNULL", "TimeoutExpired")}, Popen=lambda *a, **k: deaf
        )
        with running([], tmp_path, {}):
            pass
    finally:
        cli.subprocess = real
    assert deaf.said == ["terminate", "kill"]


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
    timer = threading.Timer(240, mine.kill)
    timer.start()
    tree = []
    try:
        url = mine.stdout.readline().split()[-1]
        for _ in range(1000):
            try:
                ask(url.replace("/?", "/voila/static/voila.js?"), 5)
                break
            except OSError as e:
                assert mine.poll() is None, mine.stderr.read()
                if isinstance(e, urllib.error.HTTPError):
                    raise
                time.sleep(0.05)
        where, page = ask(url, 200)  # the kernel runs the cell before this comes
        assert "login" not in where
        assert "application/vnd.jupyter.widget-view+json" in page
        assert "What a masked cycle sees" in page
        assert "Traceback" not in page
        assert "file_subject" not in page  # no code on the screen
        plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with plain.open(url.split("?")[0], timeout=60) as other:
            assert "login" in other.geturl()  # without the token
        assert asyncio.run(send_large(url, page, 30)) == "ok"  # the usual limit is 10
        tree = psutil.Process(mine.pid).children(recursive=True)
        assert sum("ipykernel_launcher" in " ".join(p.cmdline()) for p in tree) == 1
        assert names(tmp_path / "tmp")
        mine.send_signal(signal.SIGINT)
        _out, err = mine.communicate(timeout=60)
        assert mine.returncode == 130
        assert err == "mmccd: stopped\n"
        _gone, left = psutil.wait_procs(tree, timeout=30)
        assert not left
        assert not answers(int(url.split(":")[2].split("/")[0]))
        assert not names(tmp_path / "tmp")
    finally:
        timer.cancel()
        for p in [psutil.Process(mine.pid).children(recursive=True) if mine.poll() is None else tree][0]:
            if p.is_running():
                p.terminate()
        if mine.poll() is None:
            mine.kill()
        mine.wait()
