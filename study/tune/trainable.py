"""The function that Ray Tune calls for each trial: it trains one stack and reports its counts, or rests."""

import functools
import os
import re
import signal
import time
from dataclasses import dataclass
from typing import Any

from study.config import Rule
from study.execution import heartbeat, preflight
from study.execution.preflight import Needs, NodeError
from study.execution.work_queue import stack_from_json
from study.text import console
from study.tune.cluster import Cluster
from study.tune.coordinator import Coordination

BROKEN_DEVICE = re.compile(
    r"\bCUDA\b(?!.*out of memory)|\bHIP error|cuDNN|CUBLAS|NVIDIA driver|no NVIDIA|device-side assert|Xid",
    re.IGNORECASE,
)

LAST = {"done": True}
"""Part of a trial's only report. Without it, Tune asks the process once more, and waits for the answer."""


@dataclass(frozen=True, kw_only=True)
class TrialContext:
    """What all trials of a study share.

    Attributes:
        driver_node: Ray's id of the driver's node.
        device: torch device of a trial.
        checkpoint_seconds: Between two checkpoints; 0 is none.
    """

    needs: Needs
    study: str
    rule: Rule
    driver_node: str
    device: str
    checkpoint_seconds: float
    coordination: Coordination


def make(context: TrialContext, cluster: Cluster) -> Any:
    """Return the Tune trainable of a study, with the resources of one trial."""
    from ray import tune

    selector: dict[str, Any] = {"bundle_label_selector": [cluster.selector]} if cluster.selector else {}
    resources = tune.PlacementGroupFactory([cluster.needed], **selector)
    trains = tune.with_parameters(train, context=context)
    trains.__name__ = f"study {context.study}"  # how Ray shows the actors of trials
    return tune.with_resources(trains, resources)


def train(config: dict[str, Any], *, context: TrialContext) -> None:
    """Train the stack of `config`, or rest, and report once to Tune.

    A process in which a stack failed ends, unless one of its runs raised, or was trained and cannot be judged:
    what broke it may have stayed.
    """
    from ray import tune

    import study.execution.trial  # noqa: F401 - a process that rests imports what its next stack needs

    if "rest" in config:
        _rest(config["rest"], context.coordination)
        tune.report({"runs": 0} | LAST)
        return
    if context.coordination.is_stopping():  # it waited for a machine until then
        tune.report({"runs": 0, "stopped": "waited"} | LAST)
        return
    node, place = _place()
    result = _train(config, context, node, place)
    stays = "failure" not in result or result["kind"] in ("run", "misuse")
    tune.report(result | LAST if stays else result)
    if stays:
        return
    if result["kind"] == "device":
        _rest(context.coordination.device_failed(place), context.coordination)
    if result["kind"] == "error" and context.device == "cpu":
        raise RuntimeError(result["failure"])  # Tune ends the process; Ray would explain a kill at length
    os.kill(os.getpid(), signal.SIGKILL)


def _train(config: dict[str, Any], context: TrialContext, node: str, place: str) -> dict[str, Any]:
    """Train the stack; return its counts, that it was stopped, or why it failed."""
    import torch

    from study.execution.checkpoint import StoppedError
    from study.execution.trial import Trial, TrialOptions, execute
    from study.trainers.protocol import MisuseError, RunError

    name, runs, reference = stack_from_json(config["stack"])
    trial = Trial(study=context.study, runs=runs, rule=context.rule, reference=reference)
    options = TrialOptions(
        checkpoint_seconds=context.checkpoint_seconds,
        limit_seconds=config["limit"],
        stopping=context.coordination.is_stopping,
        about={"node": node, "killed_for_memory": heartbeat.killed_for_memory()},
        raised=config["raised"],
    )
    try:
        trainer = preflight.ready(context.needs)
    except NodeError as error:
        return _rejected(error, node, place, context)
    failed = functools.partial(dict, runs=0, place=place)
    try:
        done = execute(trial, context.needs.where, trainer, name, context.device, options)
    except StoppedError as stopped:
        return {"runs": 0, "stopped": "kept" if stopped.kept else "dropped"}
    except (torch.OutOfMemoryError, MemoryError) as error:
        return failed(kind="memory", failure=f"out of memory ({console.first_line(error)})")
    except MisuseError as error:
        return failed(kind="misuse", failure=console.one_line(str(error)))
    except BaseException as error:  # a loop may raise KeyboardInterrupt, and no signal reaches this thread
        cause = (error.__cause__ if isinstance(error, RunError) else None) or error
        broken = isinstance(cause, RuntimeError) and BROKEN_DEVICE.search(str(cause))
        kind = "device" if broken else "run" if isinstance(error, RunError) else "error"
        return failed(kind=kind, failure=console.kind_and_line(cause))
    if context.device != "cpu":
        context.coordination.device_works(place)
    return done | {"place": place}


def _rejected(error: NodeError, node: str, place: str, context: TrialContext) -> dict[str, Any]:
    """The result of a stack whose node cannot take part. A node that joined late gives the stack back."""
    import ray

    from study.tune.node_check import node_name

    if node == context.driver_node:
        return {"runs": 0, "failure": f"this machine {error}", "kind": "error", "place": place}
    # A folder may still be on its way to being mounted, and others take the stack meanwhile.
    time.sleep(preflight.SIGN_SECONDS)
    found = next(other for other in ray.nodes() if other["NodeID"] == node)
    return {"runs": 0, "rejected": f"{node_name(found)} {error}; it takes no part"}


def _place() -> tuple[str, str]:
    """Return the node of this process, and a name of its devices."""
    import ray

    context = ray.get_runtime_context()
    node = context.get_node_id()
    return node, f"{node}/{','.join(context.get_accelerator_ids().get('GPU', []))}"


def _rest(seconds: float, coordination: Coordination) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not coordination.is_stopping():
        time.sleep(min(left, 0.5))
