"""The files of docs/cluster: the manifest for KubeRay, which is only read, and the Slurm script, which runs with
stand-ins for Slurm, Ray and the study."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import ROOT

from study.cli.parser import build_parser
from study.cli.verbs import VERBS

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


# Fields of KubeRay's ray.io/v1 (v1.5.1) that the manifest uses, by their place in it.
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
def test_the_manifest_uses_fields_of_kuberay(place: tuple[str | int, ...]) -> None:
    found = JOB
    for key in place:
        found = found[key]
    assert set(found) == FIELDS[place]


def test_the_manifest_has_no_role_and_no_secret() -> None:
    kinds = [(document["apiVersion"], document["kind"]) for document in MANIFEST]
    assert kinds == [
        ("ray.io/v1", "RayJob"),
        ("v1", "ServiceAccount"),
        ("v1", "PersistentVolumeClaim"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
    ]
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
    assert any(home.startswith(mount["mountPath"]) for mount in container["volumeMounts"]), (
        "the root file system is read-only"
    )


def test_secrets_are_references() -> None:
    for container in containers():
        for variable in container["env"]:
            secret = re.search("KEY|PASSWORD|TOKEN|USERNAME|URI", variable["name"])
            assert ("value" in variable) is not bool(secret), variable
            if secret:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == NAME
    assert JOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_ray_has_the_tested_version() -> None:
    (version,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert JOB["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"rayproject/ray:{version}-py3" in (CLUSTER / "Dockerfile").read_text()


def test_the_entrypoint_is_a_valid_command_on_the_claim() -> None:
    words = shlex.split(JOB["spec"]["entrypoint"])
    asked = build_parser(VERBS).parse_args(words[1:])
    assert words[:2] == ["study", "run"]
    assert asked.gpu_fraction * 4 == 1, "four trials share a GPU"
    mounted = {mount["mountPath"] for mount in containers()[-1]["volumeMounts"]}
    assert {f"/{asked.out.split('/')[1]}", f"/{asked.data_dir.split('/')[1]}"} <= mounted
    assert yaml.safe_load(JOB["spec"]["runtimeEnvYAML"])["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "30",
    }


# --- Slurm ---------------------------------------------------------------------------------------------------------

SCRIPT = CLUSTER / "slurm.sh"


@pytest.mark.parametrize("script", [SCRIPT, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_a_script_passes_shellcheck(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("ShellCheck is not installed")
    done = subprocess.run([shellcheck, "--format=json", script], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == []


def test_an_image_holds_what_is_installed_and_no_local_files() -> None:
    ignored = {line.strip("/").removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().splitlines()}
    local = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {".git", *local} <= ignored
    assert not {"study", "models", "search_spaces", "analysis", "pyproject.toml", "README.md", "LICENSE"} & ignored


def test_the_script_needs_a_search_space() -> None:
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: sbatch slurm.sh SPACE")


STAND_INS = {
    "scontrol": "printf 'alpha\\nbeta\\n'",
    "hostname": "echo 10.0.0.1 fe80::1",
    "python": """
      if [ "$1" = -c ]; then echo token; exit; fi
      cat >/dev/null
      until [ "$(grep -c ' started' "$LOG")" = 2 ] || [ -n "$STUCK" ]; do sleep 0.05; done
      echo "slurm.sh: 2 of 2 nodes" """,
    "srun": """
      while [ "${1#--}" != "$1" ]; do case $1 in --nodelist=*) node=${1#*=};; esac; shift; done
      if [ "$node" = "$STUCK" ]; then trap '' TERM INT; while :; do sleep 0.2; done; fi
      exec "$@" """,
    "ray": """
      [ "$1" = start ] || exit 0
      case "$*" in *--head*) at=head;; *) at=node;; esac
      trap 'echo "$at ended" >>"$LOG"; exit 0' TERM
      echo "$at started" >>"$LOG"
      while :; do sleep 0.1; done""",
    "study": """
      echo "study $*" >>"$LOG"
      trap 'echo kept >>"$LOG"; exit 130' INT
      [ "$STUDY" = deaf ] && trap '' INT TERM
      case $STUDY in ends) exit 0;; fails) exit 2;; esac
      while :; do sleep 0.1; done""",
}
"""The commands that the script calls. Each writes its process id, so that the test finds what stays behind."""


class Job:
    """The script, as Slurm starts it on the first of two nodes."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.log = folder / "log"
        self.log.touch()
        (folder / "bin").mkdir()
        (folder / "pids").mkdir()
        for name, text in STAND_INS.items():
            file = folder / "bin" / name
            file.write_text(f"#!/bin/bash\ntouch {folder}/pids/$$\n{text}\n")
            file.chmod(0o755)
        environment = {
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "[alpha-beta]",
            "STUDY": "trains",
            "STUCK": "",
            "STOP_SECONDS": "60",
            "END_SECONDS": "30",
        }
        self.pids = folder / "pids"
        self.child = subprocess.Popen(
            ["bash", SCRIPT, "quick", "--out", "/shared/x"],
            env=environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def running(self) -> list[int]:
        found = []
        for file in self.pids.iterdir():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{file.name}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    found.append(int(file.name))
        return found

    def until(self, line: str) -> None:
        end = time.monotonic() + 60
        while line not in self.log.read_text():
            assert self.child.poll() is None, self.child.communicate()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code, the log and the output. Fails if a process stays behind."""
        try:
            said, complained = self.child.communicate(timeout=90)
        finally:
            end = time.monotonic() + 10
            while (left := self.running()) and time.monotonic() < end:
                time.sleep(0.1)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert left == [], "still there"
        return self.child.returncode, self.log.read_text(), said + complained


STARTED = "study run quick --out /shared/x --address 10.0.0.1:20007\n"


@pytest.mark.parametrize(("study", "code"), [("ends", 0), ("fails", 2)])
def test_the_job_ends_with_the_study_and_ends_ray(tmp_path: Path, study: str, code: int) -> None:
    ended, done, said = Job(tmp_path, STUDY=study).ended()
    assert ended == code
    assert STARTED in done
    assert "slurm.sh: 2 of 2 nodes" in said
    assert done.count(" started") == done.count(" ended") == 2


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_signal_to_the_job_lets_the_study_checkpoint(tmp_path: Path, how: signal.Signals) -> None:
    job = Job(tmp_path)
    job.until(STARTED)
    time.sleep(0.5)  # for the trap of the stand-in
    job.child.send_signal(how)
    code, done, _ = job.ended()
    assert code == 130
    assert done.index(STARTED) < done.index("kept") < done.index(" ended")


def test_the_job_kills_a_study_that_ignores_signals_and_a_step_that_does_not_end(tmp_path: Path) -> None:
    job = Job(tmp_path, STUDY="deaf", STUCK="beta", STOP_SECONDS="2", END_SECONDS="2")
    job.until(STARTED)
    time.sleep(0.5)
    job.child.send_signal(signal.SIGTERM)
    code, done, _ = job.ended()
    assert code == 128 + signal.SIGKILL
    assert "head ended" in done
    assert "node started" not in done


def test_a_head_that_never_starts_ends_the_job(tmp_path: Path) -> None:
    code, done, said = Job(tmp_path, STUCK="alpha", ANSWER_SECONDS="2", END_SECONDS="2").ended()
    assert (code, done) == (1, "")
    assert said.endswith("slurm.sh: no step starts on alpha\n")
