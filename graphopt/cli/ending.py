"""How a command ends: an exit code, and for whatever went wrong at most three lines on stderr.

0 done      1 failed      2 the call was wrong      130 Ctrl-C      141 nobody reads the output any more
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from types import FrameType

import typer

from graphopt.errors import GraphoptError

from .screen import unheard
from .words import clean

INTERRUPTED = 130
TERMINATED = 143
UNHEARD = 141


class Terminated(BaseException):
    """The process was asked to end (SIGTERM); it ends as by Ctrl-C, so that temporary files are removed."""


def run(app: typer.Typer, argv: Sequence[str] | None) -> int:
    """Run the app and turn whatever comes out of it into an exit code and a message."""
    _open_streams()
    given = list(sys.argv[1:] if argv is None else argv)
    own = given[: given.index("--")] if "--" in given else given
    if "--version" in own[:1]:
        sys.stdout.write(f"graphopt {version('graphopt')}\n")
        return 0
    debug = "--debug" in own
    words = [word for word in own if word != "--debug"] + given[len(own) :]
    _prepare(debug)
    try:
        code = app(words, prog_name="graphopt", standalone_mode=False)
        sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 - this is where every error ends
        if debug and not isinstance(error, SystemExit):
            traceback.print_exception(error)
        return _end(error, words)
    if code == INTERRUPTED:  # typer has caught the Ctrl-C
        return _end(KeyboardInterrupt())
    return code if isinstance(code, int) else 0


def _open_streams() -> None:
    """A closed stdout or stderr (``>&-``) is None in Python: what is written there goes nowhere, and is no crash."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends


def _prepare(debug: bool) -> None:
    """Names in any encoding can be printed, and libraries do not talk into our output."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    if not debug:
        import logging
        import warnings

        warnings.simplefilter("ignore")
        logging.getLogger().addHandler(logging.NullHandler())
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _end(error: BaseException, words: Sequence[str] = ()) -> int:
    match error:
        case SystemExit(code=code):
            return code if isinstance(code, int) else 1
        case KeyboardInterrupt() | typer.Abort():
            _say("interrupted: nothing half-written is left behind")
            return INTERRUPTED
        case Terminated():
            _say("terminated: nothing half-written is left behind")
            return TERMINATED
        case BrokenPipeError():
            unheard()  # or the interpreter's own flush at exit complains
            return UNHEARD
        case GraphoptError():
            explain(error)
            return error.exit_code
        case typer.BadParameter() | typer.TyperException():
            usage = _usage(error, words)
            if usage.what:  # empty after the help that a call without arguments gets
                explain(usage)
            return usage.exit_code
        case MemoryError():
            explain(GraphoptError("not enough memory", "", "close other programs, or use a smaller model"))
            return 1
        case OSError():
            where = str(error.filename or "")
            explain(GraphoptError(f"the operating system refuses: {error.strerror or error}", where))
            return 1
        case _:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            hint = "this is a bug of graphopt: please report it with the output of the same command with --debug"
            explain(GraphoptError(what, _place(error), hint))
            return 1


def explain(error: GraphoptError) -> None:
    """The three lines; empty ones are left out."""
    for title, text in (("error: ", error.what), ("where: ", error.where), ("hint:  ", error.hint)):
        if text:
            _say(title + clean(" ".join(text.split())))


def _usage(error: typer.TyperException, words: Sequence[str]) -> GraphoptError:
    """What the command-line parser refuses, in our words."""
    message = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    named = [word for word in words[:1] if not word.startswith("-")]
    command = context.command_path if context is not None else " ".join(["graphopt", *named])
    text, near, guess = " ".join(message.replace("Value error, ", "").split()).partition(" Did you mean ")
    text, several, options = text.rstrip(".").partition(" (Possible options: ")
    if several:
        wrong = text.rpartition(" ")[2]
        alike = difflib.get_close_matches(wrong, options.rstrip(")").split(", "), n=1, cutoff=0.7)
        near, guess = ("near", f"{alike[0]}?") if alike else ("", "")
    hint = f"did you mean {guess}" if near else f"{command} --help lists what there is"
    return GraphoptError(text[:1].lower() + text[1:], command, hint, usage=True)


def _place(error: BaseException) -> str:
    """The innermost line of ours in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "graphopt" in frame.filename] or frames
    return f"{os.path.basename(ours[-1].filename)}, line {ours[-1].lineno}" if ours else ""


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # nobody listens: the exit code says it
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
