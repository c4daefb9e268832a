# What a site changes, and nothing else: read by ray_cluster.slurm, and by whoever submits through a script.
# sbatch reads #SBATCH lines before any shell runs: CPUs, memory and time stand in ray_cluster.slurm.

# Loaded in this order where a `module` command exists; a module that does not load ends the job.
RAYKD_MODULES=(Python/3.11.3-GCCcore-12.3.0 CUDA/12.1.1)

# The virtual environment with requirements.txt. RAYKD_VENV in your environment wins, and must then exist.
RAYKD_DEFAULT_VENV=$HOME/.venvs/edl

# Where Ray puts sockets and logs on the node: local to it, and short (18 characters always fit).
export RAYKD_TMP=${RAYKD_TMP:-/tmp}

# How long a node's Ray may take to start, in seconds: minutes, where many start from one slow filesystem.
export RAYKD_START_TIMEOUT_S=${RAYKD_START_TIMEOUT_S:-180}

# How often a job that its time limit cuts off goes back into the queue by itself; 0 for never.
export RAYKD_MAX_REQUEUES=${RAYKD_MAX_REQUEUES:-100}

# sbatch takes this over the #SBATCH line, for those who source this file before they submit.
export SBATCH_PARTITION=${SBATCH_PARTITION:-markov_gpu}
