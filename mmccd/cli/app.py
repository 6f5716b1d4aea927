"""From the words of a shell to the options of a command and back, and from whatever is raised to one sentence."""

import inspect
import logging
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Annotated, Any, TypeVar

import typer

from mmccd.aliases import GONE_IN, RENAMED_OPTIONS
from mmccd.cli.options import Options, check_json
from mmccd.errors import format_error
from mmccd.extras import require
from mmccd.files import user_path
from mmccd.runtime import interrupted_code, say, sigterm_as_interrupt

app = typer.Typer(
    name="mmccd",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Unsupervised anomaly segmentation in brain MRI. For research and teaching, not a medical device.",
    epilog="Start with: mmccd demo. With --debug anywhere on the line, errors come with a traceback.",
)

INTERRUPTED = 130  # what typer makes of Ctrl-C while it reads the words

WORDINGS = {"int_parsing": "it must be a whole number", "float_parsing": "it must be a number"}  # by error of pydantic

SomeOptions = TypeVar("SomeOptions", bound=Options)

_RUN: dict[type[Options], Callable[[Any], int | None]] = {}


def command(
    options: type[SomeOptions], epilog: str, needs: str = ""
) -> Callable[[Callable[[SomeOptions], int | None]], Callable[[SomeOptions], int | None]]:
    """Return a decorator that makes a function the command of a class of options.

    The function takes the options and returns an exit code, or None for 0. Its docstring is the command's help.

    Args:
        options: dataclass whose fields are the command's arguments and options, in the order of the help.
        epilog: the last lines of the help, with examples.
        needs: extra whose packages the command cannot do without.
    """

    def register(run: Callable[[SomeOptions], int | None]) -> Callable[[SomeOptions], int | None]:
        def parsed(**values: Any) -> SomeOptions:
            return options(**values)

        def checked(options: SomeOptions) -> int | None:
            if needs:
                require(f"mmccd {options.command}", needs)
            return run(options)

        signature = inspect.signature(options)
        parsed.__signature__ = signature  # type: ignore[attr-defined]  what typer reads
        parsed.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        app.command(options.command, help=run.__doc__, epilog=epilog)(parsed)
        _RUN[options] = checked
        return run

    return register


def show_version(value: bool) -> None:
    """Print the version and stop, if `value`."""
    if value:
        from mmccd import __version__

        print(f"mmccd {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """One command with several subcommands."""


def arguments(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Return the words for typer, and whether `--debug`, which may stand anywhere, was among `argv`.

    `--json` without a file after it means standard output, no word at all asks for help, and an option that was
    renamed still works, with a line on standard error.
    """
    words = [w for w in argv if w != "--debug"]
    for i in reversed(range(len(words))):
        last = i + 1 == len(words) or (words[i + 1].startswith("-") and words[i + 1] != "-")
        if words[i] == "--json" and last:
            words.insert(i + 1, "-")
    for old, new in RENAMED_OPTIONS.get(words[0], {}).items() if words else ():
        for i, word in enumerate(words):
            if word.partition("=")[0] == old:
                words[i] = new + word[len(old) :]
                say(f"{old} is now called {new}; the old name goes in mmccd {GONE_IN}")
    return [home_expanded(w) for w in words] or ["--help"], "--debug" in argv


def home_expanded(word: str) -> str:
    """Return a word, or an option with its value, with the home folder for `~`, whatever shell it came from.

    `./~` becomes an absolute path, since typer makes `Path`s, which lose the `./`.
    """
    option, equals, value = word.partition("=") if re.match(r"--[\w-]+=", word) else ("", "", word)
    return f"{option}{equals}{user_path(value)}" if re.match(r"(\.[/\\])?~", value) else word


def parse(words: Sequence[str]) -> Options | int:
    """Return the options of a command line; or an exit code where nothing is left to do, as after `--help`.

    Args:
        words: those after `mmccd`, from `arguments`.

    Raises:
        typer.BadParameter: and others of typer's own errors, if the words do not fit the command.
    """
    found = app(list(words), standalone_mode=False, prog_name="mmccd")
    return found if isinstance(found, Options) else found or 0


def command_line(options: Options, always: Collection[str] = ()) -> str:
    """Return the command line that gives `options` again, quoted for a shell.

    Args:
        options: of any command.
        always: names of the options to write also where they have their default value, such as a preset whose
            meaning may change.
    """
    known = {p.name: p for p in typer.main.get_command(app).commands[options.command].params}  # type: ignore
    places, words = [], []
    for name, declared in inspect.signature(type(options)).parameters.items():
        value, param = getattr(options, name), known[name]
        if value == declared.default and name not in always:
            continue
        values = [str(v) for v in (value if isinstance(value, (list, tuple)) else [value])]
        option = param.opts[0]
        if param.param_type_name == "argument":
            places += values
        elif value is True:
            words.append(option)
        else:
            for v in values:
                words += [f"{option}={v}"] if v.startswith("-") and v != "-" else [option, v]
    if any(v.startswith("-") for v in places):
        return shlex.join(["mmccd", options.command, *words, "--", *places])
    return shlex.join(["mmccd", options.command, *places, *words])


@contextmanager
def interrupted_as(text: str) -> Iterator[None]:
    """Make Ctrl-C say `text`: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(text) from e


def stopped(text: str) -> int:
    """Say `text` below the progress bar, if there is one, and return the exit code of an interrupted command."""
    with suppress(OSError):  # the terminal may be gone
        if sys.stderr.isatty():
            print(file=sys.stderr)
        say(text)
    return interrupted_code()


def sentence(error: Exception) -> str:
    """Return one line for the user: what was wrong, and for a bug of ours how to see where."""
    if hasattr(error, "format_message"):  # one of typer's own errors, under whatever class its version has
        cause = error.__cause__
        if isinstance(error, typer.BadParameter):
            older = re.sub(r".* is not a valid (int|float).*", r"\1_parsing", error.message, flags=re.DOTALL)  # typer's
            kind = cause.errors()[0]["type"] if hasattr(cause, "errors") else older
            error.message = WORDINGS.get(kind, error.message)
        return " ".join(error.format_message().split())
    text = format_error(error)
    return text if isinstance(error, (ValueError, OSError)) else f"{text[0].lower()}{text[1:]} (--debug shows where)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `mmccd` and return its exit code.

    Args:
        argv: the words after `mmccd`; None takes those of this process.

    Returns:
        0 all well, 2 something was wrong; or stopped, with everything put in order: 130 by Ctrl-C, 143 by SIGTERM (a
        plain `kill`, a time limit), 129 by SIGHUP (the end of the terminal).
    """
    with sigterm_as_interrupt():
        try:
            with warnings.catch_warnings():
                prepare_streams()
                return run_command(sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt:  # before the work, or after it
            return stopped("stopped")


def prepare_streams() -> None:
    """Let standard output take every letter, and leave standard error to us: libraries mean their notes for others."""
    for stream in (sys.stdout, sys.stderr):  # of another code page than ours: a letter it lacks costs no result
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name in ("matplotlib", "nibabel", "PIL", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not sys.warnoptions:  # `python -W` shows them
        warnings.simplefilter("ignore")


def run_command(argv: Sequence[str]) -> int:
    """Run the command of a line and return its exit code."""
    try:
        found = parse(arguments(argv)[0])
        if not isinstance(found, Options):
            return stopped("stopped") if found == INTERRUPTED else found
        check_json(found)
        return _RUN[type(found)](found) or 0
    except (KeyboardInterrupt, typer.Abort) as e:
        return stopped(str(e) or "stopped")
    except Exception as e:
        if "--debug" in argv:
            traceback.print_exc()
        say(sentence(e))
        return 2
