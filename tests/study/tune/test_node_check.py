"""Which nodes of a cluster train: on a cluster of several Ray nodes on this machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_ray import TINY, environment

SMALL = [*TINY, "--set", "data.rows=2000", "--set", "batch=64"]

# Ray Client and a dashboard are not needed. Labels and resources are those of `ray start`.
SEVERAL = """
import contextlib, json, os, sys

def main():
    from ray.cluster_utils import Cluster
    import ray
    nodes, words = json.loads(sys.argv[1]), sys.argv[2:]
    cluster = Cluster()
    for node in nodes:
        cluster.add_node(include_dashboard=False, **node)
    ray.init(address=cluster.address, log_to_driver=False)
    blind = [node["NodeID"] for node in ray.nodes() if node["Labels"].get("mount") == "none"]
    from study.execution import preflight
    seen = preflight.answer
    def answer(needs):  # a node without the mount
        import ray
        if ray.get_runtime_context().get_node_id() in blind:
            raise preflight.NodeError("does not see the study's folder")
        return seen(needs)
    preflight.answer = answer
    from study.tune import trainable
    used = trainable.make
    def make(context, cluster):
        print("NODES", json.dumps([[n["Labels"].get("pool"), n["NodeID"] in blind] for n in cluster.nodes()]))
        print("PLACE", json.dumps([cluster.workers, cluster.needed, cluster.selector], default=str))
        return used(context, cluster)
    trainable.make = make
    from study.cli.main import main
    try:
        sys.exit(main(words))
    finally:
        ray.shutdown()
        cluster.shutdown()

if __name__ == "__main__":
    main()
"""


def study(home: Path, nodes: list[dict[str, Any]], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SEVERAL, json.dumps(nodes), "run", *SMALL, "--out", str(home / "out"), *words]
    return subprocess.run(
        command,
        env=environment(home, STUDY_CACHE=str(home / "cache"), RAY_AUTH_MODE="disabled"),
        capture_output=True,
        text=True,
        timeout=240,
    )


HEAD = {"num_cpus": 0}


@pytest.mark.slow
def test_a_node_without_the_mount_is_named_and_the_others_train(tmp_path: Path) -> None:
    blind = {"num_cpus": 2, "labels": {"mount": "none"}}
    done = study(tmp_path, [HEAD, {"num_cpus": 1}, blind])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does not see the study's folder; it takes no part" in done.stderr
    assert "NODES [[null, false]]" in done.stdout
    assert ", 1 at a time" in done.stdout
    assert '"ray.io/node-id": "!in(' in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_a_cluster_where_no_node_serves_is_refused(tmp_path: Path) -> None:
    done = study(tmp_path, [HEAD, {"num_cpus": 2, "labels": {"mount": "none"}}])
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].endswith("does not see the study's folder")


@pytest.mark.slow
def test_labels_and_resources_say_where_trials_go(tmp_path: Path) -> None:
    nodes = [
        {"num_cpus": 2},
        {"num_cpus": 1, "labels": {"pool": "mine"}, "resources": {"slot": 1}},
        {"num_cpus": 2, "labels": {"pool": "mine"}},
    ]
    done = study(tmp_path, nodes, "--label", "pool=mine", "--resources", "slot=0.5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'NODES [["mine", false]]' in done.stdout
    assert 'PLACE [1, {"CPU": 1.0, "slot": 0.5}, {"pool": "mine"}]' in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "cannot train on cuda: its torch"),
        (["--device", "cpu"], 0, ""),
        (["--gpu-fraction", "0"], 0, ""),
        (["--device", "cuda", "--label", "pool=none"], 2, "has no GPU with the label pool=none for a trial"),
        (["--device", "cuda", "--gpu-fraction", "0"], 2, "--device cuda does not go with --gpu-fraction 0"),
    ],
)
def test_a_gpu_that_torch_cannot_use(tmp_path: Path, words: list[str], code: int, said: str) -> None:
    import torch

    if torch.backends.cuda.is_built():
        pytest.skip("this torch is built for GPUs")
    done = study(tmp_path, [{"num_cpus": 2, "num_gpus": 1}], *words)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stderr.splitlines()[-1] if code else True
    if not code:
        assert '{"CPU": 1.0}' in done.stdout


HELD = """
import ray, time
ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote(num_cpus=0, num_gpus=1)
def hold():
    time.sleep(6)

hold.remote()
while ray.available_resources().get("GPU", 0):
    time.sleep(0.1)
from study.tune import cluster
cluster.GPU_WAIT_SECONDS = 0.5
cluster._gpu_bytes = lambda: ("10.0.0.2", 800)
with cluster.connected(None, workers=None, gpu_fraction=0.25) as found:
    print(found.device, found.workers, found.gpu_bytes)
    print(cluster.gpu_bytes(found))
"""


def test_a_study_that_waits_for_a_card_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD], env=environment(tmp_path), capture_output=True, text=True, timeout=240
    )
    assert done.stdout.splitlines() == ["cuda 4 None", "waits for GPUs in use by others", "200"], done.stderr
