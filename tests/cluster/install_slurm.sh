#!/usr/bin/env bash
# Installs what tests/cluster/testbed.py needs, on Debian and as root; elsewhere it says what is missing.
# Always exits 0: tests that need Slurm are skipped where it is not there.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
for program in munged slurmctld slurmd sbatch srun scontrol ip unshare nsenter; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "install_slurm.sh: not installed: ${missing[*]} (needs root and apt-get); the Slurm tests are skipped"
    exit 0
fi
# RUNLEVEL=1 keeps the packages from starting their daemons: the tests start their own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
log=$(mktemp)
if (apt-get update && apt-get install --yes --no-install-recommends slurm-wlm munge iproute2) &>"$log"; then
    echo "install_slurm.sh: installed slurm-wlm, munge and iproute2 for: ${missing[*]}"
else
    tail -n 5 "$log"
    echo "install_slurm.sh: could not install slurm-wlm, munge and iproute2; the Slurm tests are skipped"
fi
rm -f "$log"
exit 0
