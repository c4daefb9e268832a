# What a site changes, and nothing else: sourced by ray_cluster.slurm and by the submit scripts. A second site, with its
# values, is in docs/cluster.md. CPUs, memory and time stand in ray_cluster.slurm: sbatch reads them before any shell runs.

# Loaded in this order where a `module` command exists; a module that does not load ends the job.
RAYKD_MODULES=(Python/3.11.3-GCCcore-12.3.0 CUDA/12.1.1)

# The virtual environment with requirements.txt. RAYKD_VENV in your environment wins, and must then exist.
RAYKD_DEFAULT_VENV=$HOME/.venvs/edl

# sbatch takes this over the #SBATCH line, for those who source this file, as the submit scripts do. SBATCH_ACCOUNT and
# SBATCH_QOS are read likewise: export them here where your site asks for them.
export SBATCH_PARTITION=${SBATCH_PARTITION:-markov_gpu}

# More words for every sbatch of the submit scripts, which a bare sbatch does not get, such as (--mail-type=END).
RAYKD_SBATCH_FLAGS=()

# GPU types, best first, as Slurm names them; submit_best_gpu.sh takes the first that is free.
RAYKD_GPU_RANK=(h200 h100 a100 l40s rtx6000 a40 v100 rtx8000 a30 t4 p100)

# Where Ray puts sockets and logs on the node: local to it, and short (18 characters always fit).
export RAYKD_TMP=${RAYKD_TMP:-/tmp}

# Scratch for code and data while the job runs, the same path on every node; '' for none. Results never go there. Slurm
# sets TMPDIR in jobs, to /tmp unless the site says otherwise; the login node's own is not meant.
[[ -z ${SLURM_JOB_ID:-} ]] || export RAYKD_SCRATCH=${RAYKD_SCRATCH-${TMPDIR:-}}

# How long a node's Ray may take to start, in seconds: minutes, where many start from one slow filesystem.
export RAYKD_START_TIMEOUT_S=${RAYKD_START_TIMEOUT_S:-180}

# How often a job that its time limit cuts off goes back into the queue by itself; 0 for never.
export RAYKD_MAX_REQUEUES=${RAYKD_MAX_REQUEUES:-100}
