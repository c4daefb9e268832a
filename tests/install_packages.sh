#!/usr/bin/env bash
# Installs the Debian packages that tests need, where it may (as root); elsewhere it says what is missing.
# Slurm for tests/cluster, Chromium for the report's page, pdfLaTeX for its tables, Prometheus for Ray's metrics.
# Tests name what they lack and are skipped; but under CI nothing that can be installed may be missing.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing=()
for program in munged slurmctld slurmd sbatch srun scontrol ip unshare nsenter chromium prometheus pdflatex; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "install_packages.sh: not installed: ${missing[*]} (needs root and apt-get); tests that need them are skipped"
    exit 0
fi
# RUNLEVEL=1 keeps the packages from starting their daemons: the tests start their own.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
packages=(slurm-wlm munge iproute2 chromium prometheus texlive-latex-recommended)
log=$(mktemp)
if (apt-get update && apt-get install --yes --no-install-recommends "${packages[@]}") &>"$log"; then
    echo "install_packages.sh: installed ${packages[*]} for: ${missing[*]}"
else
    tail -n 5 "$log"
    echo "install_packages.sh: could not install ${packages[*]}; tests that need them are skipped"
    [[ -z ${CI:-} ]] || exit 1
fi
rm -f "$log"
