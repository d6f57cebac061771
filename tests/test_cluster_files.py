"""What docs/cluster holds: the manifest for KubeRay, read and not applied, and the Slurm script, checked and not
run."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from study import cli

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "docs" / "cluster"
MANIFEST = list(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text()))
JOB = MANIFEST[0]
NAME = "learning-rate-edge"


def pod_templates() -> dict[str, dict[str, Any]]:
    spec = JOB["spec"]
    groups = {group["groupName"]: group["template"] for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]
    return {"submitter": spec["submitterPodTemplate"], "head": head, **groups}


def containers() -> list[dict[str, Any]]:
    return [container for pod in pod_templates().values() for container in pod["spec"]["containers"]]


# Of KubeRay's ray.io/v1, v1.5.1: what stands at these places and is used here.
FIELDS = {
    (): {"apiVersion", "kind", "metadata", "spec"},
    ("spec",): {
        *("entrypoint", "runtimeEnvYAML", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"),
        *("backoffLimit", "submitterPodTemplate", "rayClusterSpec"),
    },
    ("spec", "rayClusterSpec"): {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "headGroupSpec", "workerGroupSpecs"),
    },
    ("spec", "rayClusterSpec", "authOptions"): {"mode"},
    ("spec", "rayClusterSpec", "headGroupSpec"): {"serviceType", "rayStartParams", "template"},
    ("spec", "rayClusterSpec", "workerGroupSpecs", 0): {
        *("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
    },
}


@pytest.mark.parametrize("place", FIELDS, ids=lambda place: ".".join(map(str, place)) or "job")
def test_the_manifest_has_the_fields_that_kuberay_knows(place: tuple[str | int, ...]) -> None:
    found = JOB
    for key in place:
        found = found[key]
    assert set(found) == FIELDS[place]


def test_what_the_manifest_makes() -> None:
    kinds = [(document["apiVersion"], document["kind"]) for document in MANIFEST]
    assert kinds == [
        ("ray.io/v1", "RayJob"),
        ("v1", "ServiceAccount"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ], "and neither a role nor a binding, nor a secret with something in it"
    assert {document["metadata"]["name"] for document in MANIFEST} == {NAME}
    assert MANIFEST[1]["automountServiceAccountToken"] is False
    assert MANIFEST[2]["spec"]["accessModes"] == ["ReadWriteMany"]
    labels = MANIFEST[3]["spec"]["podSelector"]["matchLabels"]
    assert all(labels.items() <= pod["metadata"]["labels"].items() for pod in pod_templates().values())


@pytest.mark.parametrize("pod", pod_templates().values(), ids=pod_templates())
def test_a_pod_has_no_rights(pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    assert spec["serviceAccountName"] == NAME
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert not any("hostPath" in volume for volume in volumes.values())
    home = next(variable["value"] for variable in container["env"] if variable["name"] == "HOME")
    assert any(home.startswith(mount["mountPath"]) for mount in container["volumeMounts"]), "the root cannot be written"


def test_secrets_are_referred_to_and_not_written_down() -> None:
    for container in containers():
        for variable in container["env"]:
            secret = re.search("KEY|PASSWORD|TOKEN|USERNAME|URI", variable["name"])
            assert ("value" in variable) is not bool(secret), variable
            if secret:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == NAME
    assert JOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_versions_are_those_that_are_tested() -> None:
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"rayproject/ray:{version}-py3" in (CLUSTER / "Dockerfile").read_text()


def test_the_entrypoint_is_a_command_of_ours_on_the_claim() -> None:
    words = shlex.split(JOB["spec"]["entrypoint"])
    asked = cli._parser().parse_args(words[1:])
    assert words[:2] == ["study", "run"]
    assert asked.gpu_fraction * 4 == 1, "as the manifest's head says"
    mounted = {mount["mountPath"] for mount in containers()[-1]["volumeMounts"]}
    assert {f"/{asked.out.split('/')[1]}", f"/{asked.data_dir.split('/')[1]}"} <= mounted
    assert yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }


# --- Slurm ---------------------------------------------------------------------------------------------------------

SCRIPT = CLUSTER / "slurm.sh"


def test_the_script_is_sound() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("ShellCheck is not installed")
    done = subprocess.run([shellcheck, "--format=json", SCRIPT], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == []


def test_the_script_wants_a_study() -> None:
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: sbatch slurm.sh SPACE")
