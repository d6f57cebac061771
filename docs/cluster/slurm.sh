#!/usr/bin/env bash
# Runs a study on Slurm, on a Ray cluster over the job's nodes, in token mode, which ends with the job. Submit it from an
# environment in which `study` runs. The words after the script's name go to `study run`:
#
#   sbatch docs/cluster/slurm.sh lr_curve --data-dir /shared/data/KuaiRand-Pure --out /shared/studies/lr_curve
#
#SBATCH --job-name=study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
# Two minutes before the job's time is over, the study is stopped as by Ctrl-C. The same sbatch trains what is missing.
#SBATCH --signal=B:INT@120
# With GPUs, and --gpu-fraction for the study: #SBATCH --gpus-per-node=1
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch slurm.sh SPACE --out /shared/folder [options of study run]" >&2; exit 2; }

# The job's own token. srun passes it on in the environment, which other users cannot read.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

# Time limits in seconds: for an answer of Slurm or Ray, for nodes to join, for the study to checkpoint, for Ray to end.
answer_seconds=${ANSWER_SECONDS:-60} node_seconds=${NODE_SECONDS:-120} stop_seconds=${STOP_SECONDS:-90} end_seconds=${END_SECONDS:-15}

cpus=${SLURM_CPUS_PER_TASK:-1}
port=$((20000 + SLURM_JOB_ID % 10000))
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

on() { # NODE COMMAND...: run a step of one task there
  timeout --kill-after=5 "$answer_seconds" \
    srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$1" "${@:2}"
}

started=()
begin() { # NODE COMMAND...: the same in the background; srun passes signals on to the step
  (exec srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" --nodelist="$1" "${@:2}") &
  started+=($!)
}

gone() { # SECONDS PID...: succeed if all of them end within this time
  local end=$((SECONDS + $1))
  while kill -0 "${@:2}" 2>/dev/null; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

# shellcheck disable=SC2317 # the trap calls it
clean_up() {
  trap - EXIT
  trap '' INT TERM # it ends soon
  [ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
  [ ${#started[@]} -eq 0 ] || gone "$end_seconds" "${started[@]}" || kill -KILL "${started[@]}" 2>/dev/null || true
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# This script runs on the first node, which is the head.
addresses=$(on "${nodes[0]}" hostname -I) || { echo "slurm.sh: no step starts on ${nodes[0]}" >&2; exit 1; }
address=${addresses%% *}:$port
common=(--num-cpus="$cpus" --disable-usage-stats --block)

begin "${nodes[0]}" ray start --head --node-ip-address="${address%:*}" --port="$port" --include-dashboard=false \
  --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${common[@]}"
end=$((SECONDS + answer_seconds))
until timeout --kill-after=5 10 ray health-check --address "$address" 2>/dev/null; do
  if ! kill -0 "${started[0]}" 2>/dev/null || [ "$SECONDS" -ge "$end" ]; then
    echo "slurm.sh: Ray's head has not started" >&2
    exit 1
  fi
  sleep 1
done
for node in "${nodes[@]:1}"; do
  begin "$node" ray start --address="$address" "${common[@]}"
done

# The study would also use nodes that join later, but it checks the folder and the data of those that are there.
# In the background, so that the traps for signals run.
timeout --kill-after=5 $((node_seconds + answer_seconds)) python - "$address" ${#nodes[@]} "$node_seconds" <<'PYTHON' &
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="error")
end = time.monotonic() + float(sys.argv[3])
while (there := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]) and time.monotonic() < end:
    time.sleep(1)
print(f"slurm.sh: {there} of {sys.argv[2]} nodes", flush=True)
PYTHON

counting=$!
started+=("$counting")
wait "$counting" || echo "slurm.sh: the nodes could not be counted" >&2

set -m # a process group of its own, which gets the signal
study run "$@" --address "$address" &
study=$!
set +m
stopping=
# shellcheck disable=SC2317 # the traps call it
stop() {
  stopping=${stopping:-$((SECONDS + stop_seconds))}
  kill -INT -- "-$study" 2>/dev/null || true
}
trap stop INT TERM
code=0
wait "$study" || code=$?
if [ -n "$stopping" ] && [ "$code" -gt 128 ]; then # the signal has ended the wait; the study checkpoints
  gone $((stopping - SECONDS)) "$study" || kill -KILL -- "-$study" 2>/dev/null || true
  code=0
  wait "$study" || code=$?
fi
exit "$code"
