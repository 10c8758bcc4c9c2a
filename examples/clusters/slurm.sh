#!/bin/bash
# Merges in parts, one for each task of the array. Submit with:
#   sbatch --array=1-16 --requeue slurm.sh recipe.yaml /shared/merged
# and, for when all are done:
#   sbatch --dependency=afterok:JOB --wrap 'mixdown assemble /shared/merged'
#SBATCH --cpus-per-task=8 --mem=16G
set -euo pipefail
exec mixdown merge "$1" --out "$2" --memory 12GB --threads "${SLURM_CPUS_PER_TASK:-8}" \
    --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
