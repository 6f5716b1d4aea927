"""Files that are whole or not at all, folders swapped as one, locks, and what killed runs leave behind."""

import os
import signal
import stat
import threading
from contextlib import suppress

import pytest

from mmccd.files import (
    FolderBusyError,
    folder_lock,
    hash_file,
    remove_leftovers,
    replacing,
    swap_in,
    working_folder,
    write_atomic,
    write_durably,
)


def hidden(folder):
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def in_a_process_that_dies(work):
    "Do something in a copy of this process, which is killed at the end of it."
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    if not (child := os.fork()):
        try:
            work()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("write", [write_atomic, write_durably])
def test_a_file_is_replaced_and_has_the_usual_permissions(tmp_path, write):
    for content in (b"old", b"new"):
        write(tmp_path / "a", content)
        assert (tmp_path / "a").read_bytes() == content
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["a", "plain"]
    write(tmp_path / ("n" * 255), b"a name as long as there can be")


def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "a").symlink_to("mine")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()


def test_a_temporary_name_that_is_taken_is_not_followed(tmp_path, monkeypatch):
    names = iter(["1" * 8, "2" * 8])
    monkeypatch.setattr("secrets.token_hex", lambda n: next(names))
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".mmccd-11111111.part").symlink_to("mine")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to("mine")
    with pytest.raises(ValueError, match=r"\.lock: it is a link; remove it"), folder_lock(tmp_path, "training"):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_one_process_at_a_time(tmp_path):
    def killed():
        with folder_lock(tmp_path, "training"):
            os.kill(os.getpid(), signal.SIGKILL)

    in_a_process_that_dies(killed)
    assert hidden(tmp_path) == [".lock"]
    remove_leftovers(tmp_path)
    assert not hidden(tmp_path)
    (tmp_path / ".lock").touch()  # of version 0.1.0, which left it: nobody has it
    with folder_lock(tmp_path, "training"):
        for wait in (0, 0.05):
            with (
                pytest.raises(FolderBusyError, match="Another process is training in"),
                folder_lock(tmp_path, "training", wait),
            ):
                pass
            remove_leftovers(tmp_path)
            assert hidden(tmp_path)
    assert not hidden(tmp_path)
    (tmp_path / ".lock").write_text("of another program")
    with folder_lock(tmp_path, "training"):
        remove_leftovers(tmp_path)
    remove_leftovers(tmp_path)
    assert (tmp_path / ".lock").read_text() == "of another program"


def test_leftovers_of_killed_runs_go_and_those_of_the_living_stay(tmp_path):
    def killed():
        with working_folder(tmp_path) as part, replacing(tmp_path / "a") as file:
            (part / "half").write_text("x")
            file.write(b"x")
            os.kill(os.getpid(), signal.SIGKILL)

    for mine in (".notes.part", ".part-mine", ".mmccd-me.part", ".mmccd-notmine1.txt"):
        (tmp_path / mine).write_text("mine")
    mine = hidden(tmp_path)
    in_a_process_that_dies(killed)
    assert len(hidden(tmp_path)) == 6
    with working_folder(tmp_path) as part, replacing(tmp_path / "b") as file:
        remove_leftovers(tmp_path)
        assert part.is_dir()
        assert len(hidden(tmp_path)) == 6
        file.write(b"b")
    remove_leftovers(tmp_path)
    assert hidden(tmp_path) == mine
    assert (tmp_path / "b").read_bytes() == b"b"
    remove_leftovers(tmp_path / "nowhere")


def test_where_open_files_stay(tmp_path, like_windows):
    "Nothing of ours is left, whether we remove it or others do; whoever reads a file is waited for."
    with folder_lock(tmp_path, "training"), working_folder(tmp_path) as part, replacing(tmp_path / "a") as file:
        file.write(b"a")
        remove_leftovers(tmp_path)
        assert hidden(tmp_path) == sorted([".lock", part.name, os.path.basename(file.name)])
    assert os.listdir(tmp_path) == ["a"]
    (tmp_path / ".lock").write_bytes(b"mmccd\n")
    (tmp_path / ".mmccd-12345678.part").mkdir()
    (tmp_path / ".mmccd-12345678.part/half").touch()
    (tmp_path / ".mmccd-87654321.part").touch()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a"]
    with open(tmp_path / "a", "rb") as reader:
        threading.Timer(0.1, reader.close).start()
        write_atomic(tmp_path / "a", b"new")
    for text in ("old", "new"):
        with working_folder(tmp_path) as part:
            swap_in(fill(part, map=text), tmp_path / "c", part)
    assert (tmp_path / "c/map").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


def test_a_file_that_others_keep_open_is_no_reason_to_wait_for_ever(tmp_path, like_windows, monkeypatch):
    monkeypatch.setattr("mmccd.files.READERS", 0.05)
    (tmp_path / "a").write_text("old")
    with open(tmp_path / "a"), pytest.raises(PermissionError):
        write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_leftovers_of_version_0_1_0(tmp_path):
    for folder, name in ((".part-abcd1234", "c_anomaly.nii.gz"), (".part-download", "thesis.txt")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("x")
    remove_leftovers(tmp_path)
    assert hidden(tmp_path) == [".part-download"]


def fill(part, name="c", **files):
    new = part / "new" / name
    new.mkdir(parents=True)
    for n, text in files.items():
        (new / n).write_text(text)
    return new


def test_a_folder_is_swapped_as_one_and_keeps_what_is_the_users(tmp_path):
    final = tmp_path / "c"
    for k in range(2):
        with working_folder(tmp_path) as part:
            swap_in(fill(part, map=f"new {k}"), final, part, ours=("map", "report"))
        if not k:
            (final / "report").write_text("old")
            (final / "notes/deep").mkdir(parents=True)
            (final / "notes/deep/n").write_text("mine")
            (final / "link").symlink_to("nowhere")
    assert (final / "map").read_text() == "new 1"
    assert sorted(os.listdir(final)) == ["link", "map", "notes"]
    assert (final / "notes/deep/n").read_text() == "mine"
    assert os.readlink(final / "link") == "nowhere"
    assert os.listdir(tmp_path) == ["c"]


def test_a_folder_takes_the_place_of_nothing_else(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "c/map").mkdir(parents=True)
    for name, words in (("link", "it is a link"), ("file", "it is a file"), ("c", "map: a folder is where a file")):
        with pytest.raises(ValueError, match=words), working_folder(tmp_path) as part:
            swap_in(fill(part, name, map="new"), tmp_path / name, part, ours=("map",))
    assert sorted(os.listdir(tmp_path)) == ["c", "elsewhere", "file", "link"]


@pytest.mark.parametrize("how", ["Ctrl-C", "full disk", "kill"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_wherever_a_swap_is_stopped_the_old_folder_or_the_new_one_is_there(tmp_path, monkeypatch, how, at):
    final, calls, rename = tmp_path / "c", [], os.rename
    final.mkdir()
    (final / "mine").write_text("precious")
    (final / "map").write_text("old")

    def stop(source, target, **kw):
        calls.append(target)
        if how == "full disk" and len(calls) == at:
            raise OSError(28, "No space left on device")
        rename(source, target, **kw)
        if len(calls) == at and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == at:
            raise KeyboardInterrupt

    def swap():
        monkeypatch.setattr(os, "rename", stop)
        with working_folder(tmp_path) as part:
            swap_in(fill(part, map="new"), final, part, ours=("map",))

    if how == "kill":
        in_a_process_that_dies(swap)
    else:
        with suppress(KeyboardInterrupt, OSError):
            swap()
        assert final.exists()
    monkeypatch.setattr(os, "rename", rename)
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["c"]
    assert (final / "mine").read_text() == "precious"
    assert (final / "map").read_text() in ("old", "new")
