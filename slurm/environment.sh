# Modules and virtual environment as slurm/site.sh names them; sourced in the repository's root by the scripts here.

fail() {
    echo "raykd: $*" >&2
    exit 2
}

source slurm/site.sh

if type module &>/dev/null; then
    for name in "${RAYKD_MODULES[@]}"; do
        module load "$name" || fail "'module load $name' failed; 'module avail' lists what there is; slurm/site.sh names what is loaded"
        # Old Tcl modules print an error and return 0.
        [[ ":${LOADEDMODULES:-}:" == *":$name:"* ]] || fail "module $name is not loaded after 'module load'; see slurm/site.sh"
    done
fi

venv=${RAYKD_VENV:-$RAYKD_DEFAULT_VENV}
if [[ ! -x $venv/bin/python && -z ${RAYKD_VENV:-} && -x .venv/bin/python ]]; then
    echo "raykd: no virtual environment at $venv; using $PWD/.venv"
    venv=$PWD/.venv
fi
[[ -x $venv/bin/python ]] || fail "no Python at $venv/bin/python; make the environment there, or export RAYKD_VENV"
export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
