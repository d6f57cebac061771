"""Checks, before a study trains, that every node of the cluster can take part."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from study import redaction
from study.execution import preflight
from study.execution.preflight import Needs, NodeError
from study.tune.cluster import Cluster, ClusterError

NODE_SECONDS = 180
"""Time for a node to start a worker process, with the code that a job brings along."""


def check_nodes(needs: Needs, cluster: Cluster) -> None:
    """Check that each node that can train sees the study's folder, and have it convert its data if it must.

    A node that joins later is checked by its own workers.

    Raises:
        ClusterError: A node cannot take part; the message names it.
    """
    import ray

    driver, resource = ray.get_runtime_context().get_node_id(), "GPU" if cluster.gpu else "CPU"
    others = [node for node in ray.nodes() if node["Resources"].get(resource) and node["NodeID"] != driver]
    for node, sign in _on_each(others, preflight.answer, needs, seconds=NODE_SECONDS):
        if not preflight.appears(needs, sign):
            raise ClusterError(
                f"{node_name(node)} has a folder of its own at {needs.where}; mount the study's folder there"
            )
    for _ in _on_each(others, _convert_data, needs, seconds=None):
        pass


def node_name(node: dict[str, Any]) -> str:
    """Return how messages name a node of `ray.nodes()`."""
    address, name = node["NodeManagerAddress"], node.get("NodeManagerHostname")
    return f"node {address} ({name})" if name and name != address else f"node {address}"


def _convert_data(needs: Needs) -> None:
    preflight.trainer_here(needs)


def _on_each(
    nodes: Sequence[dict[str, Any]], question: Callable[[Needs], Any], needs: Needs, *, seconds: float | None
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Run `question` on each node; yield the nodes that are still there with their answers."""
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
        except GetTimeoutError as error:
            raise ClusterError(f"{node_name(node)} has started no worker process in {seconds:.0f} s") from error
        except RayError as error:
            if node["NodeID"] not in {other["NodeID"] for other in ray.nodes() if other["Alive"]}:
                continue  # it has left
            raise ClusterError(f"{node_name(node)} cannot run this study ({redaction.last_line(error)})") from error
        if not fine:
            raise ClusterError(f"{node_name(node)} {said}")
        yield node, said
