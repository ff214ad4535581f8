#!/bin/bash
# Converts a model on several machines of a Slurm cluster: each task of the array writes one part, the last job joins them.
#
#   ./slurm.sh INPUT OUTPUT [OPTIONS OF weigh convert]
#
# INPUT and OUTPUT are on a file system that all nodes share. A part that failed is run again by itself:
#
#   sbatch --array=2 --export=ALL,PARTS=7 slurm.sh part INPUT OUTPUT [OPTIONS]
#
#SBATCH --job-name=weigh-convert
#SBATCH --cpus-per-task=8
#SBATCH --mem=4G
set -euo pipefail

: "${PARTS:=8}"       # the number of parts
: "${SHARD:=5GB}"     # the size of the files that are shared out; all tasks must agree
: "${WEIGH:=weigh}"

case ${1-} in
part) # in a task: write the part of this number
    shift
    # --force replaces what an earlier try of this part has left, and nothing else.
    exec "$WEIGH" convert "$@" --shard-size "$SHARD" --part "$SLURM_ARRAY_TASK_ID/$PARTS" --threads "${SLURM_CPUS_PER_TASK:-1}" --force --quiet
    ;;
join) # after all parts: check them by size and digest, write the index
    exec "$WEIGH" convert --join "$2"
    ;;
'' | -*)
    echo "usage: $0 INPUT OUTPUT [OPTIONS]" >&2
    exit 2
    ;;
*) # on the login node: submit
    export PARTS SHARD WEIGH
    parts=$(sbatch --parsable --array="1-$PARTS" "$0" part "$@")
    sbatch --dependency="afterok:$parts" --array=1 "$0" join "$2"
    ;;
esac
