"""What Windows forbids and Linux allows is forbidden here, too: see the fixture `like_windows`.

A file that is open in this process, or mapped into its memory, is neither removed nor renamed, nor is a folder that
holds one; nothing is renamed onto what is there; no name is made that Windows does not take; and what Windows lacks is
gone from `os` and `signal`. Needs Linux, for its list of open files.
"""

import os
import re
import signal
import stat
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress

import pytest

LACKING = {
    os: ("fork", "geteuid", "getpgid", "killpg", "mkfifo", "sched_getaffinity", "setsid", "statvfs"),
    signal: ("pthread_sigmask",),
}
BAD_NAME = re.compile(r'.*[<>:"|?*\x00-\x1f\\].*|.*[. ]|(con|prn|aux|nul|com\d|lpt\d)(\..*)?', re.I | re.S)
_hold = False  # do the rules hold?
_asking = threading.local()  # .now: does this thread only ask whether something is allowed?


def open_files():
    "Yield the paths of the files that this process has open or mapped."
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISREG(os.stat(f"/proc/self/fd/{number}").st_mode):
                yield os.readlink(f"/proc/self/fd/{number}")
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        yield from {words[5].strip() for line in lines if len(words := line.split(maxsplit=5)) > 5}


def full(path, folder=-1):
    "The path that a call is given, perhaps relative to an open folder; if it is a link, the link is meant."
    where = os.readlink(f"/proc/self/fd/{folder}") if folder >= 0 else os.getcwd()
    head, tail = os.path.split(os.path.abspath(os.path.join(where, os.fsdecode(path))))
    return os.path.join(os.path.realpath(head), tail)


def refuse_open(path):
    if any(p == path or p.startswith(path + os.sep) for p in open_files()):
        raise PermissionError(13, "The process cannot access the file because it is being used", path)


def refuse_name(path):
    if path.startswith(tempfile.gettempdir()) and BAD_NAME.fullmatch(os.path.basename(path)):
        raise OSError(22, "The filename, directory name, or volume label syntax is incorrect", path)


def check(event, arguments):
    if event in ("os.remove", "os.rmdir"):
        refuse_open(full(*arguments[:2]))
    elif event == "os.rename":
        source, target = map(full, arguments[:2], arguments[2:])
        refuse_open(source)
        refuse_open(target)
        refuse_name(target)
    elif event == "os.mkdir":
        refuse_name(full(arguments[0], arguments[2]))
    elif event == "open" and isinstance(arguments[0], str) and (arguments[2] or 0) & os.O_CREAT:
        refuse_name(full(arguments[0]))


def hook(event, arguments):
    "What Python calls before it does such things."
    if _hold and (event == "open" or event.startswith("os.")) and not getattr(_asking, "now", False):
        _asking.now = True
        try:
            check(event, arguments)
        finally:
            _asking.now = False


def rename_onto_nothing(source, target, real=os.rename, **options):
    if os.path.lexists(target):
        raise FileExistsError(17, "Cannot create a file when that file already exists", source, None, target)
    return real(source, target, **options)


@contextmanager
def rules_of_windows():
    "Let the rules hold inside."
    global _hold
    from mmccd import files

    if hook not in _installed:
        sys.addaudithook(hook)
        _installed.append(hook)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "OPEN_FILES_STAY", True)
        patch.setattr(os, "rename", rename_onto_nothing)
        for module, names in LACKING.items():
            for name in names:
                patch.delattr(module, name, raising=False)
        _hold = True
        try:
            yield
        finally:
            _hold = False


_installed = []  # a hook stays for good
