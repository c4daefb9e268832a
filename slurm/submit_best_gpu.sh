#!/bin/bash
# Submits an experiment to the best type of GPU that is free in the partition, by the ranking in slurm/site.sh:
#
#     slurm/submit_best_gpu.sh [--dry-run] [SBATCH OPTIONS...] experiments/distill_cnn.py [ARGS...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/environment.sh
exec python -m raykd.cluster.best_gpu --partition "$SBATCH_PARTITION" --rank "${RAYKD_GPU_RANK[*]}" -- "${RAYKD_SBATCH_FLAGS[@]}" "$@"
