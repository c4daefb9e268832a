# Modules and virtual environment as slurm/site.sh names them; sourced in the repository's root by the scripts here.

fail() {
    echo "raykd: $*" >&2
    exit 2
}

is_loaded() { # MODULE BEFORE: whether 'module load MODULE' did it; BEFORE is what LOADEDMODULES was
    # The default version was loaded, as CUDA/12.1.1 for CUDA, or an alias, under a name of its own.
    [[ ":${LOADEDMODULES:-}:" == *":$1:"* || ":${LOADEDMODULES:-}:" == *":${1%/}/"* || ${LOADEDMODULES:-} != "$2" ]]
}

load_modules() {
    local name before
    for name in "${RAYKD_MODULES[@]}"; do
        before=${LOADEDMODULES:-}
        module load "$name" || fail "'module load $name' failed; 'module avail' lists what there is; slurm/site.sh names what is loaded"
        # Old Tcl modules print an error and return 0. Lmod and Environment Modules 4 return what happened.
        [[ -n ${LMOD_CMD:-}${MODULES_CMD:-} ]] || is_loaded "$name" "$before" ||
            fail "module $name is not loaded after 'module load'; see slurm/site.sh"
    done
}

# The site's own code: it may read unset variables, and run commands that fail without harm.
bash -n slurm/site.sh || fail "slurm/site.sh is no valid bash; its lines are named above"
strict=$- pipefail=$(shopt -po pipefail || true)
set +euo pipefail
source slurm/site.sh
if type module &>/dev/null && ((${#RAYKD_MODULES[@]})); then load_modules; fi
eval "$pipefail"
[[ $strict != *u* ]] || set -u
[[ $strict != *e* ]] || set -e

venv=${RAYKD_VENV:-${RAYKD_DEFAULT_VENV:-}}
if [[ ! -x $venv/bin/python && -z ${RAYKD_VENV:-} && -x .venv/bin/python ]]; then
    echo "raykd: no virtual environment at $venv; using $PWD/.venv"
    venv=$PWD/.venv
fi
[[ -x $venv/bin/python ]] || fail "no Python at $venv/bin/python; make the environment there, or export RAYKD_VENV"
export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
unset PYTHONHOME PYTHONPLATLIBDIR PYTHONSAFEPATH # of another Python: this one would not find its library, or raykd
