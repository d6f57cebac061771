"""Checks, before a study trains, that every node of the cluster can take part."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from study.execution import preflight
from study.execution.preflight import Needs, NodeError
from study.text import console
from study.text.wording import count
from study.tune.cluster import Cluster, ClusterError

NODE_SECONDS = 180
"""Time for a node to start a worker process, with the code that a job brings along."""


def check_nodes(needs: Needs, cluster: Cluster) -> Cluster:
    """Check that each node that can train sees the study's folder, and have it convert its data if it must.

    A node that cannot take part is named. A node that joins later is checked by its own workers.

    Returns:
        The cluster without the nodes that cannot take part.

    Raises:
        ClusterError: No node can take part; the message names one.
    """
    import ray

    driver, nodes = ray.get_runtime_context().get_node_id(), cluster.nodes()
    unfit: dict[str, str] = {}
    if needs.device != "cpu":  # on a CPU, the driver's own trainer has shown that this machine can train
        try:
            preflight.trainer_here(needs)
        except NodeError as error:
            unfit[driver] = str(error)
    others = [node for node in nodes if node["NodeID"] != driver]
    for node, sign in _on_each(others, preflight.answer, needs, unfit, seconds=NODE_SECONDS):
        if not preflight.appears(needs, sign):
            unfit[node["NodeID"]] = f"has a folder of its own at {needs.where}; mount the study's folder there"
    others = [node for node in others if node["NodeID"] not in unfit]
    for _ in _on_each(others, _convert_data, needs, unfit, seconds=None):
        pass
    reasons = [f"{node_name(node)} {unfit[node['NodeID']]}" for node in nodes if node["NodeID"] in unfit]
    if reasons and len(reasons) == len(nodes):
        raise ClusterError(reasons[0])
    for reason in reasons:
        warnings.warn(f"{reason}; it takes no part", stacklevel=2)
    if reasons:
        cluster = dataclasses.replace(cluster, without=tuple(unfit))
        cluster = dataclasses.replace(cluster, workers=cluster.wanted_workers())
    if cluster.workers > (fitting := len(nodes) and cluster.current_workers()):
        console.show(f"asks for {count(cluster.workers, 'trial')} at a time; {fitting} fit the cluster now")
    if cluster.gpu:
        console.show(f"trains on GPUs of {', '.join(map(node_name, cluster.nodes()))}")
    return cluster


def node_name(node: dict[str, Any]) -> str:
    """Return how messages name a node of `ray.nodes()`."""
    address, name = node["NodeManagerAddress"], node.get("NodeManagerHostname")
    return f"node {address} ({name})" if name and name != address else f"node {address}"


def _convert_data(needs: Needs) -> None:
    preflight.trainer_here(needs)


def _on_each(
    nodes: Sequence[dict[str, Any]],
    question: Callable[[Needs], Any],
    needs: Needs,
    unfit: dict[str, str],
    *,
    seconds: float | None,
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Run `question` on each node; yield fit nodes with their answers. The reasons of others go into `unfit`."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def ask(needs: Needs) -> tuple[bool, Any]:
        try:
            return True, question(needs)
        except NodeError as error:
            return False, str(error)

    task = ray.remote(ask)
    answers = [
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(needs)
        for node in nodes
    ]
    end = None if seconds is None else time.monotonic() + seconds
    for node, answer in zip(nodes, answers, strict=True):
        try:
            fine, said = ray.get(answer, timeout=None if end is None else max(0.0, end - time.monotonic()))
        except GetTimeoutError:
            fine, said = False, f"has started no worker process in {seconds:.0f} s"
        except RayError as error:
            if node["NodeID"] not in {other["NodeID"] for other in ray.nodes() if other["Alive"]}:
                continue  # it has left
            fine, said = False, f"cannot run this study ({console.last_line(error)})"
        if fine:
            yield node, said
        else:
            unfit[node["NodeID"]] = said
