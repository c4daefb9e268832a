# Loads the modules and activates the virtual environment of slurm/site.sh. The scripts here source it in the folder
# that has slurm/: the repository, or a project that `raykd init` made.

fail() {
    echo "raykd: $*" >&2
    exit 2
}

is_loaded() { # MODULE BEFORE: whether 'module load MODULE' succeeded; BEFORE: LOADEDMODULES before it
    # A default version (CUDA/12.1.1 for CUDA) or an alias appears under another name.
    [[ ":${LOADEDMODULES:-}:" == *":$1:"* || ":${LOADEDMODULES:-}:" == *":${1%/}/"* || ${LOADEDMODULES:-} != "$2" ]]
}

define_module() { # if the login shell is not bash, or sbatch had --export=NONE, bash has no `module` command yet
    local init
    for init in "${LMOD_PKG:+$LMOD_PKG/init/bash}" "${MODULESHOME:+$MODULESHOME/init/bash}" /etc/profile.d/*{lmod,modules}*.sh; do
        if ! type module &>/dev/null && [[ -r $init ]]; then source "$init"; fi
    done
}

load_modules() {
    local name before
    for name in "${RAYKD_MODULES[@]}"; do
        before=${LOADEDMODULES:-}
        module load "$name" || fail "'module load $name' failed; set RAYKD_MODULES in slurm/site.sh to modules that 'module avail' lists"
        # Old Tcl modules print an error and return 0. Lmod and Environment Modules 4 return the status.
        [[ -n ${LMOD_CMD:-}${MODULES_CMD:-} ]] || is_loaded "$name" "$before" ||
            fail "module $name is not loaded after 'module load $name'; correct RAYKD_MODULES in slurm/site.sh"
    done
}

require_start() { # end here if the environment's Python lacks a library, such as that of a module which is not loaded
    local error
    error=$("$venv/bin/python" -I -S -c '' 2>&1) ||
        fail "$venv/bin/python does not start on $HOSTNAME (${error##*$'\n'}); add the module that it was made with to RAYKD_MODULES in slurm/site.sh"
}

# The site's code may read unset variables and run commands that fail.
bash -n slurm/site.sh || fail "slurm/site.sh is not valid bash; correct the lines listed above"
strict=$- pipefail=$(shopt -po pipefail || true)
set +euo pipefail
define_module
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
[[ -e $venv/bin/python || ! -L $venv/bin/python ]] ||
    fail "$venv/bin/python is a link to $(readlink -m "$venv/bin/python"), which $HOSTNAME does not have; make the environment from a Python that all nodes have"
[[ -x $venv/bin/python ]] || fail "no Python at $venv/bin/python; run 'make env VENV=$venv' in a clone of raykd, or export RAYKD_VENV"
export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
export PYTHONNOUSERSITE=1 # packages in ~/.local would replace those of a Conda environment
unset PYTHONHOME PYTHONPLATLIBDIR PYTHONSAFEPATH # set for another Python; this one would not find its library or raykd
require_start

# RAYKD_PYTHON: the command of the Python that has Ray and torch, inside the container if there is one. Bash exports no
# arrays, so that Python reads the words of RAYKD_CONTAINER from lines.
unset RAYKD_CONTAINER_COMMAND
RAYKD_PYTHON=(python)
if [[ -n ${RAYKD_CONTAINER[*]-} ]]; then
    RAYKD_CONTAINER_COMMAND=$(printf '%s\n' "${RAYKD_CONTAINER[@]}")
    export RAYKD_CONTAINER_COMMAND RAYKD_CONTAINER_PYTHON=${RAYKD_CONTAINER_PYTHON:-python3}
    RAYKD_PYTHON=("${RAYKD_CONTAINER[@]}" "$RAYKD_CONTAINER_PYTHON")
fi
