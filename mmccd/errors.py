""""""


def file_error(
    path,  # the path as the caller gave it
    wrong: str,  # what is wrong
    todo: str,  # what to do about it
) -> ValueError:  # to be raised
    "One plain sentence about a file that cannot be used."
    return ValueError(f"Cannot read {display_name(path)}: {wrong}; {todo}.")


def display_name(
    path,  # path or name
) -> str:  # the same; bytes that are no text, as old archives leave them in names, as backslashes
    "A name that every terminal and every file can take."
    return str(path).encode("utf-8", "backslashreplace").decode()


def format_error(
    error: BaseException,  # what was raised
) -> str:  # one line
    "What went wrong, without a traceback; the type where the words were not written for users."
    text = " ".join(str(error).split())
    return (
        text
        if text and isinstance(error, (ValueError, OSError))
        else f"Unexpected {type(error).__name__}: {text or 'no message'}"
    )
