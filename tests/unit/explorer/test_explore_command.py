"`mmccd explore`: what is refused before a page opens, the notebook behind the page, and pictures without a page."

import ast
import importlib.util
import json
import os
import re
import socket
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from mmccd.cases.phantoms import write_phantom
from mmccd.cli import explore
from mmccd.cli.app import main
from mmccd.explorer import subjects
from mmccd.explorer.saving import SAVED
from mmccd.explorer.server import MAX_UPLOAD, SERVERS, check_server, prepare_folder, server_command
from mmccd.explorer.subjects import phantom_subject
from mmccd.phantom import make_phantom


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
    "What would be served: (app, notebook, port, what happens when it is ready)."
    calls = []
    monkeypatch.setattr(explore, "serve", lambda *a, folder: calls.append(a))
    return calls


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    "The folder of a case with a lesion and its healthy twin."
    return Path(write_phantom(make_phantom("glioma", 7, 0, range(75, 78)), tmp_path_factory.mktemp("cases")))


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


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


def test_the_lines_make_the_same_picture(saved, capsys):
    out, said = saved
    here = {}
    exec((out / "view.py").read_text(), here)
    assert capsys.readouterr().out == said["words"] + "\n"
    assert here["explorer"].png(here["view"]) == (out / "view.png").read_bytes()


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


BAD = [
    (["{}/nowhere"], "no such file or folder"),
    (["{}"], "Cannot read"),
    (["CASE", "--slice", "7"], "no axial slice 7"),
    (["CASE", "--input", "pd"], "pd"),
    (["CASE", "--input", "flair", "--target", "flair"], "cannot predict flair from flair"),
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
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("mmccd: ")
        assert says in err
        assert "--debug" not in err
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
    monkeypatch.setitem(sys.modules, gone, None)
    code, out, err = run("--with", app)
    assert code == 2
    assert not out
    assert not served
    assert err.count("\n") == 1
    assert f"needs {gone}, which does not come with mmccd alone" in err
    what = "notebook" if gone == "notebook" else "'mmccd[notebooks]'"
    assert f"pip install {what}, or save pictures with --save DIR" in err


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
    assert check_server("voila", port) == port
    assert check_server("voila", 0) not in (0, port)


def call_of(book):
    "The call in the code cell: positional source, keyword arguments as literals."
    call = ast.parse(book["cells"][1]["source"]).body[-1].value
    return ast.unparse(call.args[0]), {k.arg: ast.literal_eval(k.value) for k in call.keywords}


@pytest.fixture
def opened(monkeypatch, capsys, tmp_path):
    "How often a browser is given the private file that leads to the page; its address is printed in any case."
    import webbrowser

    urls = []
    folder = tmp_path / "private"
    monkeypatch.setattr(webbrowser, "open", urls.append)
    monkeypatch.setattr(explore, "private_folder", lambda: nullcontext(folder))

    def call(on_ready):
        folder.mkdir()
        on_ready("http://here?token=t&x")
        assert "http://here?token=t&x\n" in capsys.readouterr().out
        for url in urls:
            path = folder / "open.html"
            assert url == path.as_uri()
            assert "url=http://here?token=t&amp;x" in path.read_text()
            assert os.name != "posix" or path.stat().st_mode & 0o777 == 0o600
        return len(urls)

    return call


def test_the_notebook_says_what_was_asked_for(run, served, opened, case, monkeypatch):
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
        check_server("lab", 0),
        "--no-browser",
    ) == (0, "", "")
    app, book, port, on_ready = served[0]
    assert app == "lab"
    assert port
    assert opened(on_ready) == 0
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


def test_a_phantom_by_kind_and_seed(run, served, monkeypatch):
    small = partial(phantom_subject, slices=range(80, 81))
    monkeypatch.setattr(subjects, "phantom_subject", small)
    assert run("--kind", "ms", "--subject-seed", 3, "--weights", "masked")[0] == 0
    assert call_of(served[0][1])[0] == "phantom_subject('ms', 3, 0, range(80, 81))"


def test_the_notebook_runs(run, served, opened, case, tmp_path, monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.chdir(tmp_path)
    assert run(case, "--slice", 76, "--weights", "masked", "--device", "cpu")[0] == 0
    app, book, _port, on_ready = served[0]
    assert app == "voila"
    assert opened(on_ready) == 1
    assert [c["cell_type"] for c in book["cells"]] == ["markdown", "code"]
    assert "Shift" not in book["cells"][0]["source"]
    source, space = book["cells"][1]["source"], {}
    exec(source.replace("\nexplore(", "\npanel = explore("), space)
    panel = space["panel"]
    view = panel.explorer.nearest_view(panel.view())
    assert panel.explorer.subject.case.id == case.name
    assert (view.place, panel.explorer.weights) == (76, "masked")
    assert panel.out == tmp_path
    assert panel.controls["picture"].value == panel.explorer.png(view)


def test_a_run_is_found_from_the_folder_of_the_server(tmp_path, monkeypatch):
    (tmp_path / "mmccd").mkdir()
    monkeypatch.chdir(tmp_path)
    assert explore.explorer_weights("mmccd", "") == "mmccd"
    (tmp_path / "mmccd" / "config.json").touch()  # a folder that holds a detector comes before a short name
    assert explore.explorer_weights("mmccd", "") == str(tmp_path / "mmccd")
    assert explore.explorer_weights("me/mine", "") == "me/mine"
    assert explore.explorer_weights("threshold", "t2") == "threshold-t2"


@pytest.mark.parametrize("app", SERVERS)
def test_server_line(app):
    if importlib.util.find_spec(SERVERS[app]) is None:
        pytest.skip(f"{SERVERS[app]} is not installed")
    line = server_command(app, "/folder", 1234)
    assert line[:5] == [sys.executable, "-m", "mmccd.explorer.served", "/folder", SERVERS[app]]
    assert "--no-browser" in line
    assert "--port=1234" in line
    settings = {k.lstrip("-").split(".")[-1]: v for k, _, v in (w.partition("=") for w in line)}
    assert settings["ip"] == "127.0.0.1"
    assert settings["port_retries"] == "0"
    assert MAX_UPLOAD > 10**8
    tornado = ast.literal_eval(settings["tornado_settings"])
    assert tornado["websocket_max_message_size"] == MAX_UPLOAD
    policy = tornado["headers"]["Content-Security-Policy"]
    assert policy.startswith("default-src 'self' ")
    assert set(re.findall(r"(?:https?|wss?):\S+", policy)) == {"ws://127.0.0.1:1234;"}
    assert settings.get("auto_token") == ("True" if app == "voila" else None)
    assert "token" not in settings


def test_what_the_server_needs(tmp_path):
    env = prepare_folder(tmp_path, {"cells": []}, "secret")
    assert env["JUPYTER_TOKEN"] == "secret"
    assert all(env[k].startswith(str(tmp_path)) for k in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"))
    assert "secret" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
