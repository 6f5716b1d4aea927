""""""

import sys
import traceback
from typing import Annotated

import typer

from mmccd.runtime import Interrupted, say

app = typer.Typer(
    name="mmccd",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Unsupervised anomaly segmentation in brain MRI. For research and teaching, not a medical device.",
    epilog="Start with: mmccd demo. With --debug anywhere on the line, errors come with a traceback.",
)


def stopped(
    words,  # for typer
) -> int:  # exit code
    "Ctrl-C: what is kept, below the progress bar if there is one."
    if sys.stderr.isatty():
        print(file=sys.stderr)
    kept = {
        "detect": "; finished cases are kept, go on with --skip-existing",
        "prepare": "; finished cases are kept, the same command goes on",
    }
    say("stopped" + kept.get(words[0], ""))
    return 130


def show_version(
    value: bool,  # True if --version was given
):
    "Print the version and stop."
    if value:
        from mmccd import __version__

        print(f"mmccd {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
):
    "One command with several subcommands."


def arguments(
    argv,  # the words after `mmccd`
) -> tuple:  # (words for typer, was --debug among them)
    "`--debug` may stand anywhere; `--json` without a file means standard output; no word at all asks for help."
    words = [w for w in argv if w != "--debug"]
    for i in reversed(range(len(words))):
        bare = i + 1 == len(words) or (words[i + 1].startswith("-") and words[i + 1] != "-")
        if words[i] == "--json" and bare:
            words.insert(i + 1, "-")
    return words or ["--help"], "--debug" in argv


def main(
    argv=None,  # the words after `mmccd`; None: those of this process
) -> int:  # exit code: 0 all well, 2 something was wrong, 130 interrupted
    "The command `mmccd`."
    words, debug = arguments(sys.argv[1:] if argv is None else argv)
    try:
        code = app(words, standalone_mode=False, prog_name="mmccd")
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        if isinstance(e, Interrupted):
            return say(str(e)) or 130
        if type(e).__name__ == "Abort":
            return stopped(words)  # Ctrl-C: an exception, or 130, as the version of typer has it
        if debug:
            traceback.print_exc()
        text = e.format_message() if hasattr(e, "format_message") else str(e)  # typer's own errors have the former
        text = text.replace(
            "Input should be a valid integer, unable to parse string as an integer", "it must be a whole number"
        ).replace("Input should be a valid number, unable to parse string as a number", "it must be a number")
        known = hasattr(e, "format_message") or isinstance(e, (ValueError, OSError))
        say(
            " ".join(text.split())
            if known
            else f"unexpected {type(e).__name__}: {' '.join(text.split())} (--debug shows where)"
        )
        code = 2
    if code == 130:
        return stopped(words)
    return code if isinstance(code, int) else 0
