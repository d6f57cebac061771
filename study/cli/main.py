"""The command `study`. A user's error is one line and exit code 2, before anything is trained or overwritten."""

import argparse
import contextlib
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence

from study import telemetry
from study.cli.parser import USER_ERROR, build_parser, current_words, tracking_uri
from study.cli.verbs import READING, VERBS
from study.text import console, redaction

# Trials need the cores, and small problems are solved faster without threads. Numpy reads this when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.update(telemetry.disabled())

OUR_ERROR = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code. arguments: None is the command line."""
    words, notes = current_words(sys.argv[1:] if arguments is None else arguments)
    options = build_parser(VERBS).parse_args(words)
    warn_once = functools.cache(_say)  # a record is read several times
    warnings.showwarning = lambda message, *_args, **_kwargs: warn_once(f"warning: {message}")
    for note in notes:
        _say(note)
    try:
        with _allowed_imports(options), _terminated_as_ctrl_c():
            _refuse_password(getattr(options, "tracking_uri", None))
            return options.do(options) or 0
    except KeyboardInterrupt as stopped:
        _say(f"\nstudy: {str(stopped) or 'stopped; the same command continues'}")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stdout was closed, and Python flushes it at exit
        return OUR_ERROR
    except Exception as error:
        if os.environ.get("STUDY_TRACEBACK"):
            raise
        if isinstance(error, ValueError):
            _say(f"study: {_one_line(error)}")
            return getattr(error, "exit_code", USER_ERROR)
        if isinstance(error, OSError):
            where = console.one_line(str(error.filename or ""))
            _say(f"study: {': '.join(filter(None, (where, error.strerror or str(error))))}")
            return USER_ERROR
        _say(f"study: {type(error).__name__}: {_one_line(error)} (unexpected; STUDY_TRACEBACK=1 shows where)")
        return OUR_ERROR


@contextlib.contextmanager
def _terminated_as_ctrl_c() -> Iterator[None]:
    """Treat SIGTERM, which a scheduler sends, like Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _allowed_imports(options: argparse.Namespace) -> Iterator[None]:
    """Import the user's own modules only for commands that train."""
    from study import plugins
    from study.tune import environment

    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise ValueError("the current folder was removed; change to another one") from None
    plugins.only_ours = options.command in READING
    if not plugins.only_ours:
        if hasattr(options, "address"):
            options.address = environment.checked_address(options.address, submits=options.command == "submit")
        environment.prepare(getattr(options, "address", None))  # a user's own module may import ray
    try:
        plugins.drop_folder(here)
        plugins.add_folder(None if plugins.only_ours else here)
        yield
    finally:
        plugins.only_ours = False


def _refuse_password(uri: str | None) -> None:
    """Raise ValueError for a tracking URI on the command line that holds a password: other users can read it there."""
    if uri and uri != tracking_uri() and redaction.redacted(uri) != uri:
        raise ValueError(
            f"--tracking-uri {redaction.redacted(uri)} holds a password, which other users can read "
            "on the command line; set MLFLOW_TRACKING_URI instead"
        )


def _say(text: str) -> None:
    console.show(redaction.redacted(text), file=sys.stderr)


def _one_line(error: BaseException) -> str:
    return console.joined_lines(str(error)) or type(error).__name__
