#!/bin/bash
# Submits both families as a graph of jobs: teachers and baselines side by side, distilled students after their teachers,
# and the report after all of them. Rerun the same command to resume; finished runs are reused.
#
#     slurm/submit_experiments.sh [--dry-run] [SBATCH OPTIONS...] [-- ARGS...]
#
# ARGS are passed to every experiment, such as --set FIELD=VALUE.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source slurm/environment.sh

dry_run='' options=()
while (($#)) && [[ $1 != -- ]]; do
    if [[ $1 == --dry-run ]]; then dry_run=yes; else options+=("$1"); fi
    shift
done
(($#)) && shift

translated() { # [--without-gpus]: the options in the form that the batch script allows, quoted
    python -m raykd.cluster.sbatch_options "$@" -- "${RAYKD_SBATCH_FLAGS[@]}" ${options[@]+"${options[@]}"}
}
for_stages=$(translated)
for_report=$(translated --without-gpus)
eval "options=($for_stages)"

if [[ ! $dry_run ]]; then # mistakes of typing end here, not in the queue
    "${RAYKD_PYTHON[@]}" -m raykd.cli.submission_check experiments/cnn_and_vit.py "$@" || (($? != 2)) || exit 2
fi

submit() { # NAME DEPENDENCY ARGUMENTS...: submit a job and print its id
    local command=(sbatch --parsable --job-name="$1" ${options[@]+"${options[@]}"} ${2:+"--dependency=$2"} "${@:3}")
    if [[ $dry_run ]]; then
        printf '%q ' "${command[@]}" >&2
        echo >&2
        echo "<$1>"
    else
        "${command[@]}" | cut -d';' -f1
    fi
}

stage() { # FAMILY STAGE DEPENDENCY ARGS...
    submit "$1-$2" "$3" --kill-on-invalid-dep=yes slurm/ray_cluster.slurm experiments/cnn_and_vit.py --family "$1" --stage "$2" "${@:4}"
}

folders=() results=ray_results # --results and --data-dir, which the report reads too
for ((number = 1; number <= $#; number++)); do
    next=$((number + 1))
    case ${!number} in
        --results | --data-dir) option=${!number} value=${!next-} ;;
        --results=* | --data-dir=*) option=${!number%%=*} value=${!number#*=} ;;
        *) continue ;;
    esac
    folders+=("$option=$value")
    if [[ $option == --results ]]; then results=$value; fi
done

ids=()
for family in cnn vit; do
    teacher=$(stage "$family" teacher '' "$@")
    baseline=$(stage "$family" baseline '' "$@")
    distilled=$(stage "$family" distilled "afterok:$teacher" "$@")
    echo "raykd: $family: teacher $teacher, baseline $baseline, distilled $distilled (after $teacher)"
    ids+=("$teacher" "$baseline" "$distilled")
done
after=$(IFS=:; echo "${ids[*]}")

eval "options=($for_report)"
unset SBATCH_GRES SBATCH_GPUS SBATCH_GPUS_PER_NODE SBATCH_GPUS_PER_TASK SBATCH_CPUS_PER_GPU SBATCH_MEM_PER_GPU SBATCH_EXCLUSIVE
report=$(submit raykd-report "afterany:$after" --cpus-per-task=2 --mem=8G --time=1:00:00 --output=slurm-%j.out \
    --wrap "$(printf '%q ' bash -c 'source slurm/environment.sh && exec "${RAYKD_PYTHON[@]}" -m raykd report "$@"' report "${folders[@]}")")
echo "raykd: report $report, after all of them; it writes $results/report/index.html"
all=${after//:/,},$report
echo "raykd: follow the jobs with: squeue -j $all; tail -f slurm-${ids[0]}.out"
