"""The command line: one table of options, from which the parser, the request and a submitted job are made."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from study.text import console
from study.tracking.choices import AUTO, MOST_RUNS, RUNS

USER_ERROR = 2

DESCRIPTION = (
    "How large a learning rate can this model be trained with before it diverges, how sure are we, and which method "
    "moves that edge?"
)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"study: {console.one_line(message)} (see {self.prog} --help)\n")


class _Listed(argparse.Action):
    """Joins the values of an option that is given several times, each with commas in it."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


MOST = 1_000_000_000
"""The largest of `positive_int`. Ray's amounts have a limit."""


def positive_int(text: str) -> int:
    """Return a whole number from 1 to MOST."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
    if not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(f"need {'at least 1' if value < 1 else f'at most {MOST:,}'}, got {text}")
    return value


def minutes(text: str) -> float:
    """Return a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"need a number of minutes, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"need 0 or more minutes, got {text}")
    return value


def gpu_share(text: str) -> float:
    """Return 1 / n from `1/n` or a decimal fraction, or 0."""
    try:
        value = Fraction(text)
        if value == 0:
            return 0.0
        parts = round(1 / value)
    except (ValueError, ZeroDivisionError):
        parts, value = 0, Fraction(0)
    if parts < 1 or abs(value * parts - 1) > 1e-9:
        raise argparse.ArgumentTypeError(f"need 0, 1, 1/2, 1/3 ... of a GPU, got {text}")
    return 1 / parts


def amount(text: str) -> str:
    """Return `NAME=N` if N is a number above 0."""
    name, _, n = text.partition("=")
    if name in ("CPU", "GPU"):
        raise argparse.ArgumentTypeError(f"{name} is no custom resource; see --device and --gpu-fraction")
    try:
        if name and 0 < float(n) < float("inf"):
            return text
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"need NAME=AMOUNT, such as a100=1, got {text!r}")


def label(text: str) -> str:
    """Return `KEY=VALUE` if both are there. Ray would read some other characters as operators."""
    key, _, value = text.partition("=")
    if not key or not value or set(value) & set("!(),="):
        raise argparse.ArgumentTypeError(f"need KEY=VALUE, such as pool=research, got {text!r}")
    return text


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option of `study run`. group: commands take whole groups. settings: of `add_argument`."""

    group: str
    help: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    flag: str | None = None


def _option(group: str, metavar: str, help: str, **settings: Any) -> Option:
    flag = settings.pop("flag", None)
    return Option(group=group, help=help, settings={"metavar": metavar} | settings, flag=flag)


REPEATED: dict[str, Any] = {"action": "append", "default": []}

OPTIONS: dict[str, Option] = {
    "data": _option("space", "D", "data source, instead of the space's own"),
    "data_dir": _option("space", "P", "folder that the data source reads"),
    "out": _option("space", "DIR", "the study's folder, or a URL such as s3://bucket/prefix (default: results/SPACE)"),
    "init_from": _option(
        "space", "FILE", "weights that every run starts from, a path or a URL (see study export-weights)"
    ),
    "init_accumulators": Option(
        group="space",
        help="with --init-from: start Adagrad's accumulators fresh (the default), or restore them from the file",
        settings={"choices": ("fresh", "restore")},
    ),
    "seeds": _option("space", "S", "such as 0-31; a search starts with the first", action=_Listed),
    "level": _option("space", "P", "search: P(divergence) at the edge", type=float),
    "precision": _option("space", "F", "search: upper end of the edge's interval over its lower end", type=float),
    "budget": _option("space", "N", "search: most runs of a curve", type=int),
    "settings": _option(
        "space",
        "KEY=VALUE",
        "methods=none,clippy  models=small  lr=0.1,0.2  clippy.rel=0.1,0.5  steps=300  data.rows=50000; "
        "warmup=0,20 makes a family (docs/spaces.md)",
        action="append",
        default=[],
        flag="--set",
    ),
    "workers": _option(
        "workers", "N", "trials at a time, also for nodes to come (default: one per core)", type=positive_int
    ),
    "stack": _option(
        "workers", "N", "most runs of a stack: runs of one model and method, trained together", type=positive_int
    ),
    "address": _option("cluster", "A", "of a Ray cluster (default: a local one for this command)"),
    "tracking_uri": _option(
        "cluster", "U", "of MLflow (default: $MLFLOW_TRACKING_URI, else a database in the study's folder)"
    ),
    "mlflow_runs": Option(
        group="cluster",
        help="show each training run in MLflow, with its loss curve "
        f"(default: {AUTO}, studies of up to {MOST_RUNS} runs)",
        settings={"choices": RUNS, "default": AUTO},
    ),
    "device": Option(
        group="cluster",
        help="train on CPUs or GPUs (default: cuda if there is a GPU)",
        settings={"choices": ("cpu", "cuda")},
    ),
    "gpu_fraction": _option(
        "cluster", "F", "share of a GPU for each trial; 0 trains on CPUs", type=gpu_share, default=1.0
    ),
    "cuda_graphs": Option(
        group="cluster",
        help="on a GPU, replay training steps as CUDA graphs, after a trial of each (default: on); changes no result",
        settings={"choices": ("on", "off"), "default": "on"},
    ),
    "resources": _option(
        "cluster", "NAME=N", "a custom resource of Ray that each trial takes; repeatable", **REPEATED, type=amount
    ),
    "labels": _option(
        "cluster", "KEY=VALUE", "a label of the nodes that train; repeatable", **REPEATED, type=label, flag="--label"
    ),
    "checkpoint_minutes": _option(
        "cluster", "M", "time between checkpoints of a stack (default: 10; 0: none)", type=minutes
    ),
    "accept_changed_code": Option(
        group="cluster",
        help="train although your own modules changed since runs of the record were trained",
        settings={"action": "store_true"},
    ),
    "trial_minutes": _option(
        "cluster",
        "M",
        "stop and retry a trial that makes no step for so long (default: from what its stack takes, at least 10; "
        "0: never)",
        type=minutes,
    ),
}
"""Every option of `study run`, by its name in RunRequest."""


def tracking_uri() -> str | None:
    """Return the default tracking URI, $MLFLOW_TRACKING_URI."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def current_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace words of the previous version. Returns the words, and a note for each that was replaced."""
    words, notes = list(words), []
    command = words[0] if words else ""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        new = word
        if i == 0 and word == "weights":
            new = "export-weights"
        elif command == "replay" and name == "--beside":
            new = f"--compare{equals}{value}"
        elif word == "--init-accumulators=handed":
            new = "--init-accumulators=restore"
        elif word == "handed" and words[i - 1] == "--init-accumulators":
            new = "restore"
        if new != word:
            notes.append(f"note: `{name}` is now `{new.partition('=')[0]}`; the old word will be removed")
            words[i] = new
    return words, notes


def run_words(options: argparse.Namespace) -> list[str]:
    """Return the `study run` command of a submitted job: all options but the cluster's address."""
    words = [options.python, "-P", "-m", "study", "run", options.space]
    for name in OPTIONS:
        value = getattr(options, name)
        if name == "address" or value is None or value is False:
            continue
        if value is True:
            words.append(_flag(name))
            continue
        for one in value if isinstance(value, list) else [value]:
            words += [_flag(name), str(one)]
    return words


def build_parser(verbs: Mapping[str, Callable[[argparse.Namespace], int | None]]) -> argparse.ArgumentParser:
    """Return the parser of all commands. verbs: command -> the function that runs it."""
    parser = _Parser(prog="study", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str, *groups: str, folder: bool = False) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(do=verbs[name], command=name)
        if folder:
            added.add_argument("dir", metavar="DIR", help="the study's folder, or its URL")
        if "space" in groups:
            added.add_argument("space", metavar="SPACE", help="a search space (see study spaces)")
        for option in OPTIONS:
            if OPTIONS[option].group in groups:
                _add(added, option)
        return added

    command("spaces", "list studies, methods, models and data sources")
    command("plan", "show cells, runs, trials and expected time; train nothing", "space", "workers")
    command("run", "train the runs that are not recorded, then report", "space", "workers", "cluster")
    _add_range_test(
        command("range-test", "train runs whose lr rises step by step, and show what lr_find would suggest")
    )
    command("resume", "train the missing runs of a study, then report", "workers", "cluster", folder=True)
    status = command("status", "count runs that are done, training, diverged, failed and missing", folder=True)
    status.add_argument("--json", action="store_true", help="print JSON")
    report = command("report", "write tables, figures and report.html from the record", folder=True)
    report.add_argument(
        "--figures",
        action=_Listed,
        metavar="F",
        help="formats of figures of 3.3 inches for a paper: pdf, svg or png, such as pdf,svg",
    )
    report.add_argument("--latex", action="store_true", help="also tables/edges.tex, the edges for a paper (booktabs)")
    recommend = command("recommend", "show the largest lr whose risk can be claimed, by method", folder=True)
    _add_claim(recommend)
    recommend.add_argument("--json", action="store_true", help="print JSON records with finite numbers or null")
    confirm = command("confirm", "train fresh seeds at one lr, to claim it", "workers", "cluster", folder=True)
    confirm.add_argument("--lr", type=float, required=True, metavar="X", help="the learning rate to confirm")
    confirm.add_argument(
        "--seeds", action=_Listed, metavar="S", help="such as 100-158, all unused (default: as many as needed)"
    )
    confirm.add_argument(
        "--method", action=_Listed, metavar="M", help="methods or curves, such as none,clippy (default: all)"
    )
    confirm.add_argument("--model", action=_Listed, metavar="M", help="models, such as small,large (default: all)")
    _add_claim(confirm)
    rescore = command("rescore", "judge the recorded runs by another rule, without training", folder=True)
    rescore.add_argument(
        "--rule", nargs="+", action="extend", required=True, metavar="KEY=VALUE", help="such as kept=0.5 once_had=0.6"
    )
    scale = command("scale", "show edges against a size, and predict them at a larger size", folder=True)
    scale.add_argument("--at", action=_Listed, metavar="KEY=S", help="sizes to predict, such as ranker.depth=12,24")
    scale.add_argument("--over", choices=("steps",), help="judge the runs at shorter horizons, from recorded losses")
    scale.add_argument("--json", action="store_true", help="print JSON records with finite numbers or null")
    merge = command("merge", "make one record of a study that was trained in several folders")
    merge.add_argument("dirs", metavar="DIR", nargs="+", help="the folders, or their URLs; they stay as they are")
    merge.add_argument("--out", metavar="DIR", required=True, help="the merged record's folder, or its URL")
    merge.add_argument(
        "--accept-changed-code", action="store_true", help="merge runs that different code of your own modules trained"
    )
    _add_import(command("import", "make a record of runs that exist: a table of losses, or an MLflow experiment"))
    _add_single_runs(command)
    submit = command("submit", "run a study as a job on a Ray cluster", "space", "workers", "cluster")
    submit.add_argument("--working-dir", type=Path, help="a folder with your own modules that the job needs")
    submit.add_argument("--python", default="python", metavar="P", help="the cluster's Python (default: python)")
    submit.add_argument("--no-wait", action="store_true", help="return when the job is submitted")
    mlflow = command("mlflow", "rebuild the MLflow view from the record", folder=True)
    _add(mlflow, "tracking_uri")
    _add(mlflow, "mlflow_runs")
    ui = command("ui", "open the MLflow view on loopback", folder=True)
    ui.add_argument("--port", type=int, help="default: 5000, or any free port")
    _add(ui, "tracking_uri")
    _add_data(commands, verbs)
    return parser


def _add_range_test(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("space", metavar="SPACE", help="a search space (see study spaces)")
    add(
        "--from", dest="low", type=float, metavar="LR", help="lr of the first step (default: lowest of the space / 100)"
    )
    add("--to", dest="high", type=float, metavar="LR", help="lr of the last step (default: highest of the space * 10)")
    add("--steps", type=int, default=400, metavar="N", help="steps of a run, at least 20 (default: 400)")
    add("--seeds", action=_Listed, dest="range_seeds", metavar="N", help="how many, or such as 100-115 (default: 4)")
    for option in ("data", "data_dir", "out", "init_from", "init_accumulators", "settings", "workers", "device"):
        _add(parser, option)


def _add_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="FILE|mlflow", help="CSV or Parquet, one row a run and step; or mlflow")
    add("--lr", required=True, metavar="COL", help="column of the learning rate; of MLflow such as params.lr")
    add("--loss", required=True, action="append", metavar="COL", help="column of the loss; repeat it for several tasks")
    add("--step", default="step", metavar="COL", help="column of the step's number (default: step)")
    add("--seed", metavar="COL", help="column of the seed (default: each run has a seed of its own)")
    add("--curve", action="append", default=[], metavar="COL", help="column that distinguishes curves; repeatable")
    add("--run", metavar="COL", help="column that tells runs apart, if curve, lr and seed do not")
    add("--baseline", type=float, action="append", default=[], metavar="X", help="loss of a model without skill")
    add("--baseline-column", action="append", default=[], metavar="COL", help="the same, on the batch of each step")
    add("--horizon", type=positive_int, metavar="N", help="judge all runs after N steps (default: each at its end)")
    add(
        "--ended",
        choices=("missing", "completed"),
        default="missing",
        help="what runs are that were cut while healthy (default: missing)",
    )
    add("--planned", action="store_true", help="lrs and seeds were fixed before the runs were trained: they may claim")
    add("--out", metavar="DIR", help="the study's folder, or a URL (default: results/NAME)")
    add("--name", help="of the study (default: that of the file or experiment)")
    add("--experiment", metavar="E", help="of MLflow")
    _add(parser, "tracking_uri")


def _add_single_runs(command: Callable[..., argparse.ArgumentParser]) -> None:
    replay = command("replay", "train one recorded run again and record its inner values and figures", folder=True)
    _add_run(replay)
    replay.add_argument(
        "--compare", action=_Listed, metavar="M", help="also other methods at this seed and lr: none,clippy or all"
    )
    replay.add_argument("--sharpness-every", type=positive_int, default=20, metavar="N", help="steps (default: 20)")
    export = command("export-weights", "write the final weights of a recorded run to a file", folder=True)
    _add_run(export)
    export.add_argument(
        "--out", metavar="FILE", help="a path, or a URL such as s3://bucket/w (default: DIR/weights/RUN_ID.safetensors)"
    )
    signals = command("signals", "show which signals precede divergence, over many recorded runs", folder=True)
    signals.add_argument("--seeds", action=_Listed, metavar="S", help="such as 0-15 (default: all recorded)")
    signals.add_argument("--model", action=_Listed, metavar="M", help="models, such as small,large (default: all)")
    signals.add_argument("--method", action=_Listed, metavar="M", help="methods, such as none,clippy (default: all)")
    signals.add_argument("--sharpness-every", type=positive_int, default=40, metavar="N", help="steps (default: 40)")
    signals.add_argument("--workers", type=positive_int, metavar="N", help="stacks at a time (default: one per core)")


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Add the options that name one recorded run."""
    parser.add_argument(
        "run_id", metavar="RUN_ID", nargs="?", help="a run, or the start of its id (default: by --lr, or the control)"
    )
    parser.add_argument("--lr", type=float, metavar="X", help="a run with this lr")
    parser.add_argument("--method", metavar="M", help="needed if the study has several")
    parser.add_argument("--model", metavar="M", help="needed if the study has several")
    parser.add_argument("--seed", type=int, metavar="N", help="of the run (default: the lowest)")


def _add_data(commands: Any, verbs: Mapping[str, Callable[[argparse.Namespace], int | None]]) -> None:
    data = commands.add_parser("data", help="list, fetch or check data sources")
    data.set_defaults(command="data")
    actions = data.add_subparsers(required=True, metavar="COMMAND")
    actions.add_parser("list", help="list data sources").set_defaults(do=verbs["data list"])
    fetch = actions.add_parser("fetch", help="download and verify a data set")
    fetch.add_argument("name", help="the data set: kuairand")
    fetch.add_argument("--data-dir", default="data", metavar="P", help="target (default: ./data)")
    fetch.set_defaults(do=verbs["data fetch"])
    check = actions.add_parser("check", help="read a data source and describe it")
    check.add_argument("name", help="a data source (see study data list)")
    check.add_argument("--data-dir", metavar="P", help="folder that the data source reads")
    check.set_defaults(do=verbs["data check"])


def _add(parser: argparse.ArgumentParser, name: str) -> None:
    settings = dict(OPTIONS[name].settings)
    if name == "tracking_uri":
        settings["default"] = tracking_uri()
    parser.add_argument(_flag(name), dest=name, help=OPTIONS[name].help, **settings)


def _flag(name: str) -> str:
    return OPTIONS[name].flag or f"--{name.replace('_', '-')}"


def _add_claim(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--risk", type=float, default=0.05, metavar="P", help="largest P(divergence) (default: 0.05)")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="P", help="of the claim (default: 0.95)")
    parser.add_argument("--quality", metavar="Q", help="such as auc_click (default: of the first task)")
