"""How errors about the user's files are worded: one plain sentence that says where, what is wrong, and what to do."""

import re
import unicodedata
from os import PathLike

TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # the text around them


def file_error(path: str | PathLike[str], wrong: str, todo: str) -> ValueError:
    """Return the error for a file or folder that cannot be used; the caller raises it.

    Args:
        path: the path as the user gave it.
        wrong: what is wrong with it, as "it is 4-D".
        todo: what to do about it, as "save a single volume of it".
    """
    return ValueError(f"Cannot read {display_name(path)}: {wrong}; {todo}.")


def display_name(path: object) -> str:
    """Return a path or name that every terminal and every file can take.

    Bytes that are no text, as old archives leave them in names, become backslash escapes; so do characters that a
    terminal obeys instead of showing them, line ends among them.
    """
    return "".join(map(_shown, str(path)))


def _shown(character: str) -> str:
    obeyed = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in TURNING
    return character.encode("unicode_escape").decode() if obeyed else character


def format_error(error: BaseException, case: str = "") -> str:
    """Return what went wrong in one line; with the type where the words were not written for users.

    Args:
        error: what was raised.
        case: id of the case that it is about; it goes first where the words do not name it.
    """
    text = display_name(" ".join(str(error).split()))
    if not text or not isinstance(error, ValueError | OSError):
        text = f"Unexpected {type(error).__name__}: {text or 'no message'}"
    named = not case or re.search(rf"(?<![^\W_]){re.escape(display_name(case))}(?![^\W_])", text)
    return text if named else f"{display_name(case)}: {text}"
