"""The command `study`. Errors for users are one line and exit code 2, before anything is trained or overwritten."""

import argparse
import atexit
import contextlib
import dataclasses
import gc
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from study import redaction, telemetry

# Small problems are solved faster without threads, and trials need the cores. Read once, when numpy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.update(telemetry.disabled())

USER_ERROR = 2
OUR_ERROR = 1
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    asked = _parser().parse_args(arguments)
    if arguments is None:
        gc.set_threshold(20_000, 10, 10)  # a quarter of what heavy imports take is looking through what they make
    atexit.register(gc.freeze)  # what is left is freed with the process: collecting it first takes a second
    warnings.showwarning = lambda message, *_args, **_kwargs: _say(f"warning: {message}")
    try:
        with _let_in(asked), _ended_as_by_ctrl_c():
            _refuse_password(getattr(asked, "tracking_uri", None))
            return asked.do(asked) or 0
    except KeyboardInterrupt as stopped:
        what = str(stopped) or "stopped; the same command goes on"
        _say(f"\nstudy: {what}")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has had enough
        return OUR_ERROR
    except Exception as error:
        if os.environ.get("STUDY_TRACEBACK"):
            raise
        if isinstance(error, ValueError):
            _say(f"study: {_one_line(error)}")
            return USER_ERROR
        if isinstance(error, OSError):
            _say(f"study: {error.filename or ''}: {error.strerror or error}")
            return USER_ERROR
        _say(f"study: {type(error).__name__}: {_one_line(error)} (not foreseen; STUDY_TRACEBACK=1 shows where)")
        return OUR_ERROR


@contextlib.contextmanager
def _ended_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, which a scheduler sends, leaves time for a last line, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


READING = ("spaces", "status", "report", "recommend", "rescore", "mlflow", "ui")
"""Commands that read a record, which may be somebody else's. The others may import modules of the user's own."""


@contextlib.contextmanager
def _let_in(asked: argparse.Namespace) -> Iterator[None]:
    """Inside, only those modules are imported that the command may import. Refuses a folder that would have us write
    elsewhere."""
    from study import plugins
    from study.storage import untrusted_input

    plugins.only_ours = asked.command in READING
    try:
        if not plugins.only_ours:
            _find_modules_here()
        for folder in (getattr(asked, "dir", None), getattr(asked, "out", None)):
            if folder and "://" not in str(folder):
                untrusted_input.refuse_links(Path(folder).expanduser())
        yield
    finally:
        plugins.only_ours = False


def _refuse_password(uri: str | None) -> None:
    """Raise ValueError for a tracking URI on the command line that holds a password: other users can read it there."""
    if uri and uri != _tracking_uri() and redaction.redacted(uri) != uri:
        raise ValueError(
            f"--tracking-uri {redaction.redacted(uri)} holds a password, which other users can read "
            "on the command line; set MLFLOW_TRACKING_URI instead"
        )


def _say(text: str) -> None:
    print(redaction.printable(redaction.redacted(text)), file=sys.stderr)


def _find_modules_here() -> None:
    """A user's own modules, named by dotted names, are looked for in the current folder, by trials too."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if here not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, paths)])


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"study: {message} ({self.prog} --help says more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="study",
        description="How large a learning rate can this model be trained with before it diverges, how sure are we, "
        "and which method moves that edge?",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, do, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(do=do, command=name)
        return added

    command("spaces", _spaces, "what can be run: studies, methods, models, data sources")
    planned = command("plan", _plan, "cells, runs, trials and expected time; trains nothing")
    _add_space(planned)
    _add_workers(planned)
    ran = command("run", _run, "train what the record lacks, then report")
    _add_space(ran)
    _add_workers(ran)
    _add_cluster(ran)
    resumed = command("resume", _resume, "train exactly what a study's folder lacks, then report")
    resumed.add_argument("dir", metavar="DIR")
    _add_workers(resumed)
    _add_cluster(resumed)
    looked = command("status", _status, "runs done, training, diverged, failed and missing, while it trains or after")
    looked.add_argument("dir", metavar="DIR")
    looked.add_argument("--json", action="store_true", help="the same for programs")
    reported = command("report", _report, "tables, figures and report.html from the record alone")
    reported.add_argument("dir", metavar="DIR")
    recommended = command("recommend", _recommend, "the largest lr whose risk can be claimed, by method")
    recommended.add_argument("dir", metavar="DIR")
    _add_claim(recommended)
    recommended.add_argument("--json", action="store_true", help="records with finite numbers or null")
    confirmed = command("confirm", _confirm, "train fresh seeds at one lr, to claim it")
    confirmed.add_argument("dir", metavar="DIR")
    confirmed.add_argument("--lr", type=float, required=True, metavar="X")
    confirmed.add_argument(
        "--seeds", metavar="S", help="such as 100-158, none of them used (default: as many as needed)"
    )
    confirmed.add_argument("--method", metavar="M", help="methods or curves, such as none,clippy (default: all)")
    confirmed.add_argument("--model", metavar="M", help="models, such as small,large (default: all)")
    _add_claim(confirmed)
    _add_workers(confirmed)
    _add_cluster(confirmed)
    rescored = command("rescore", _rescore, "judge the recorded runs by another rule, without training")
    rescored.add_argument("dir", metavar="DIR")
    rescored.add_argument(
        "--rule", nargs="+", action="extend", required=True, metavar="KEY=VALUE", help="such as kept=0.5 once_had=0.6"
    )
    replayed = command("replay", _replay, "one run again, with everything watched, and the figures of it")
    replayed.add_argument("dir", metavar="DIR")
    replayed.add_argument("run_id", metavar="RUN_ID", help="of the record, or how it begins")
    replayed.add_argument("--beside", metavar="M", help="the same seed and lr under other methods: none,clippy or all")
    replayed.add_argument("--sharpness-every", type=_positive(int), default=20, metavar="N", help="steps (default: 20)")
    handed = command("weights", _weights, "the weights that a recorded run left, for others to start from")
    handed.add_argument("dir", metavar="DIR")
    handed.add_argument(
        "run_id", metavar="RUN_ID", nargs="?", help="of the record, or how it begins (default: by --lr, or the control)"
    )
    handed.add_argument("--lr", type=float, metavar="X", help="the lowest seed that was trained with this lr")
    handed.add_argument("--method", metavar="M", help="where the study has more than one")
    handed.add_argument("--model", metavar="M", help="where the study has more than one")
    handed.add_argument(
        "--out",
        metavar="FILE",
        help="path or URL of the file (default: DIR/weights/RUN_ID.safetensors)",
    )
    signalled = command("signals", _signals, "which signals foretell divergence, over many recorded runs")
    signalled.add_argument("dir", metavar="DIR")
    signalled.add_argument("--seeds", metavar="S", help="such as 0-15 (default: all that were recorded)")
    signalled.add_argument("--model", metavar="M", help="models, such as small,large (default: all)")
    signalled.add_argument("--method", metavar="M", help="methods, such as none,clippy (default: all)")
    signalled.add_argument(
        "--sharpness-every", type=_positive(int), default=40, metavar="N", help="steps (default: 40)"
    )
    signalled.add_argument("--workers", type=_positive(int), metavar="N", help="stacks at a time (default: one a core)")
    submitted = command("submit", _submit, "run a study as a job of a Ray cluster")
    _add_space(submitted)
    _add_workers(submitted)
    _add_cluster(submitted)
    submitted.add_argument("--working-dir", type=Path, help="a folder of your own modules that the job needs")
    submitted.add_argument("--no-wait", action="store_true", help="return once the job is submitted")
    mirrored = command("mlflow", _mlflow, "rebuild the MLflow view from the record")
    mirrored.add_argument("dir", metavar="DIR")
    mirrored.add_argument("--tracking-uri", metavar="U", default=_tracking_uri())
    opened = command("ui", _ui, "open the MLflow view on loopback")
    opened.add_argument("dir", metavar="DIR")
    opened.add_argument("--port", type=int)
    opened.add_argument("--tracking-uri", metavar="U", default=_tracking_uri())

    of_data = commands.add_parser("data", help="data sources: list, fetch, check")
    of_data.set_defaults(command="data")
    sources = of_data.add_subparsers(required=True, metavar="COMMAND")
    sources.add_parser("list", help="data sources").set_defaults(do=_data_list)
    fetched = sources.add_parser("fetch", help="download and verify a data set")
    fetched.add_argument("name")
    fetched.add_argument("--data-dir", type=Path, default=Path("data"), metavar="P", help="where to (default: ./data)")
    fetched.set_defaults(do=_data_fetch)
    looked = sources.add_parser("check", help="read a data source and say what is in it")
    looked.add_argument("name")
    looked.add_argument("--data-dir", metavar="P")
    looked.set_defaults(do=_data_check)
    return parser


def _add_space(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", metavar="SPACE", help="a search space (study spaces lists them)")
    parser.add_argument("--data", metavar="D", help="data source, in place of the space's own")
    parser.add_argument("--data-dir", metavar="P", help="where the data source reads")
    parser.add_argument(
        "--out", metavar="DIR", help="the study's folder, or a URL such as s3://bucket/prefix (default: results/SPACE)"
    )
    parser.add_argument(
        "--init-from", metavar="FILE", help="weights that every run starts from, a path or a URL (study weights)"
    )
    parser.add_argument(
        "--init-accumulators",
        choices=("fresh", "handed"),
        help="with --init-from: Adagrad's accumulators start anew (the default), or as the file has them",
    )
    parser.add_argument("--seeds", metavar="S", help="such as 0-31; a search begins with the first")
    parser.add_argument("--level", type=float, metavar="P", help="search: P(divergence) at the edge that is sought")
    parser.add_argument("--precision", type=float, metavar="F", help="search: interval's upper end over its lower end")
    parser.add_argument("--budget", type=int, metavar="N", help="search: runs a curve at most")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="methods=none,clippy  models=small  lr=0.1,0.2  clippy.rel=0.1,0.5  steps=300  data.rows=50000",
    )


def _add_claim(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--risk", type=float, default=0.05, metavar="P", help="of divergence, at most (default: 0.05)")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="of the claim (default: 0.95)")
    parser.add_argument("--quality", metavar="Q", help="such as auc_click (default: that of the first task)")


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=_positive(int), metavar="N", help="trials at a time (default: one a core)")
    parser.add_argument("--stack", type=_positive(int), metavar="N", help="runs of a stack at most")


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--address", metavar="A", help="of a Ray cluster (default: one for this command alone)")
    parser.add_argument(
        "--tracking-uri",
        metavar="U",
        default=_tracking_uri(),
        help="of MLflow (default: $MLFLOW_TRACKING_URI, else a file in the study's folder)",
    )
    parser.add_argument("--gpu-fraction", type=_share, default=1.0, metavar="F", help="share of a GPU of each trial")
    parser.add_argument(
        "--checkpoint-minutes",
        type=_minutes,
        metavar="M",
        help="between two checkpoints of a stack that trains (default: 10; 0: none)",
    )
    parser.add_argument(
        "--trial-minutes",
        type=_minutes,
        metavar="M",
        help="a trial that makes no step for so long is ended, and tried again (default: by what its stack takes, at "
        "least 10; 0: never)",
    )


def _tracking_uri() -> str | None:
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def _asked(asked: argparse.Namespace):
    from study.commands.run import RunRequest

    given: dict[str, Any] = {"space": ""}
    given |= {name: value for name, value in vars(asked).items() if name in RunRequest.__dataclass_fields__}
    given["settings"] = tuple(given.get("settings", ()))
    return RunRequest(**given)


def _spaces(_asked: argparse.Namespace) -> None:
    for title, package in (
        ("studies", "search_spaces"),
        ("methods", "study.methods"),
        ("models", "models"),
        ("data", "study.data"),
    ):
        print(f"{title}:")
        _list(package)


def _plan(asked: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run as driver

    given = _asked(asked)
    family = families.asked_for(given)
    print(families.preview(given, family) if family else driver.preview(given))


def _run(asked: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run as driver

    given = _asked(asked)
    if family := families.asked_for(given):
        families.run(given, family)
    else:
        driver.run(given)


def _resume(asked: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run as driver

    folder = driver.study_folder(asked.dir)
    whose = families if families.holds(folder) else driver
    whose.resume(folder, _asked(asked))


def _status(asked: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run as driver

    folder = driver.study_folder(asked.dir)
    if not families.holds(folder):
        print(driver.status(folder, as_json=asked.json))
        return
    if asked.json:
        raise ValueError(f"{asked.dir} holds a family of studies; --json is of one study")
    print(families.status(folder))


def _report(asked: argparse.Namespace) -> None:
    from study.commands import family as families
    from study.commands import run as driver

    folder = driver.study_folder(asked.dir)
    whose = families if families.holds(folder) else driver
    print(whose.report(folder))


def _recommend(asked: argparse.Namespace) -> None:
    from study.commands import run as driver

    print(driver.recommend(driver.study_folder(asked.dir), _claim(asked), as_json=asked.json))


def _confirm(asked: argparse.Namespace) -> None:
    from study.commands import run as driver
    from study.search.confirmation import ConfirmRequest

    wish = ConfirmRequest(lr=asked.lr, seeds=asked.seeds, methods=asked.method, models=asked.model)
    driver.confirm(driver.study_folder(asked.dir), _asked(asked), wish, _claim(asked))


def _claim(asked: argparse.Namespace):
    from study.commands.run import Claim

    return Claim(risk=asked.risk, confidence=asked.confidence, quality=asked.quality)


def _rescore(asked: argparse.Namespace) -> None:
    from study.commands import run as driver

    print(driver.rescore(driver.study_folder(asked.dir), asked.rule))


def _replay(asked: argparse.Namespace) -> None:
    from study.replay import replay
    from study.storage import stores

    folder, cache, every = stores.folder_of(asked.dir).resolve(), stores.cache_folder(), asked.sharpness_every
    print(replay.replay(folder, asked.run_id, cache, compare=asked.beside, sharpness_every=every))
    stores.publish(folder, ("replay/*/*",))


def _weights(asked: argparse.Namespace) -> None:
    from study.replay import export_weights
    from study.storage import stores
    from study.trainers import warm_start

    folder, cache = stores.folder_of(asked.dir).resolve(), stores.cache_folder()
    run = export_weights.select_run(folder, run=asked.run_id, lr=asked.lr, method=asked.method, model=asked.model)
    out = asked.out or str(folder / "weights" / f"{run[:12]}.safetensors")
    warm_start.place(out)  # says what is wrong with it before the run is trained
    exported = export_weights.export_weights(folder, run, cache)
    print(f"{exported.text}\n{export_weights.write(exported.weights, out)}")
    if not asked.out:
        stores.publish(folder, ("weights/*.safetensors",))


def _signals(asked: argparse.Namespace) -> None:
    from analysis.report import signals
    from study import overrides
    from study.replay.signals import observe_runs
    from study.storage import stores

    def on_progress(done: int, every: int) -> None:
        print(f"{done}/{every} runs observed", flush=True)

    folder = stores.folder_of(asked.dir).resolve()
    observe_runs(
        folder,
        stores.cache_folder(),
        seeds=None if asked.seeds is None else overrides.seeds(asked.seeds),
        models=asked.model.split(",") if asked.model else None,
        only_methods=asked.method.split(",") if asked.method else None,
        sharpness_every=asked.sharpness_every,
        workers=asked.workers or os.cpu_count() or 1,
        on_progress=on_progress,
    )
    print(signals.write(folder))
    stores.publish(folder, ("signals/*",))


def _mlflow(asked: argparse.Namespace) -> None:
    from study.storage import stores
    from study.tracking import mirror

    folder = stores.folder_of(asked.dir).resolve()
    print(mirror.mirror(folder, asked.tracking_uri))


def _ui(asked: argparse.Namespace) -> None:
    from study.storage import stores
    from study.tracking import server

    server.serve(stores.folder_of(asked.dir).resolve(), port=asked.port, uri=asked.tracking_uri)


def _submit(asked: argparse.Namespace) -> int:
    from study.commands import family as families
    from study.commands import run as driver
    from study.tune import submit

    given = _asked(asked)
    if not asked.address:
        raise ValueError("study submit needs --address, such as http://127.0.0.1:8265")
    words = _command_line(asked)
    for word in words:
        if redaction.redacted(word) != word:
            raise ValueError(
                f"{redaction.redacted(word)} holds a secret, which everyone sees who can see the job; leave it out, "
                "and set MLFLOW_TRACKING_URI, or what else holds it, where the cluster is started"
            )
    if family := families.asked_for(given):
        families.check(given, family)
    else:
        if driver.init_from(given):  # it is there, and so are the data, where the job runs
            given = dataclasses.replace(given, init_from=None, init_accumulators=None)
        driver.out_folder(given, driver.study_of(given))
    return submit.submit(
        asked.address,
        words,
        working_dir=asked.working_dir,
        wait=not asked.no_wait,
        commit=driver.commit(),
    )


def _command_line(asked: argparse.Namespace) -> list[str]:
    """The `study run` that the job is to execute: all that was asked but the cluster's address."""
    words = ["python", "-m", "study", "run", asked.space]
    asked_for = ("data", "data_dir", "init_from", "init_accumulators", "out", "seeds", "level", "precision", "budget")
    of_cluster = ("workers", "stack", "tracking_uri", "gpu_fraction", "checkpoint_minutes", "trial_minutes")
    for name in (*asked_for, *of_cluster):
        value = getattr(asked, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words + [word for setting in asked.settings for word in ("--set", setting)]


def _data_list(_asked: argparse.Namespace) -> None:
    _list("study.data")


def _data_fetch(asked: argparse.Namespace) -> None:
    from study import data

    print(data.fetch(asked.name, asked.data_dir.resolve(), progress=_show_bytes))


def _show_bytes(done: int, total: int) -> None:
    end = "\n" if done >= total else ""
    print(f"\r{done / 2**20:.1f} of {total / 2**20:.1f} MiB", end=end, file=sys.stderr, flush=True)


def _data_check(asked: argparse.Namespace) -> None:
    from study import data
    from study.storage.stores import cache_folder

    options = {"dir": str(Path(asked.data_dir).expanduser().resolve())} if asked.data_dir else {}
    print(data.check(asked.name, options, cache_folder()))


def _list(package: str) -> None:
    """Each plugin of a package, with the first line of its module."""
    from study import plugins

    for name, text in plugins.described(package).items():
        print(f"  {name:16} {text}")


def _positive(kind: type):
    def parse(text: str):
        value = kind(text)
        if value < 1:
            raise argparse.ArgumentTypeError(f"need at least 1, got {text}")
        return value

    parse.__name__ = kind.__name__
    return parse


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"need 0 or more minutes, got {text}")
    return value


def _share(text: str) -> float:
    try:
        value = Fraction(text)  # which reads 1/3 and 0.25 alike
        parts = round(1 / value)
    except (ValueError, ZeroDivisionError):
        parts, value = 0, Fraction(0)
    if parts < 1 or abs(value * parts - 1) > 1e-9:
        raise argparse.ArgumentTypeError(f"need 1, 1/2, 1/3 ... of a GPU, got {text}")
    return 1 / parts


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
