# The settings of a site. The batch script and the submit scripts source this file. docs/cluster.md has the values of a
# second site. CPUs, memory and time are set in ray_cluster.slurm, because sbatch reads them before any shell runs.

# Modules, loaded in this order if a `module` command exists. A module that does not load ends the job. Load no CUDA
# module: torch has CUDA's libraries, and those of another version on LD_LIBRARY_PATH keep it from being imported.
RAYKD_MODULES=(Python/3.11.3-GCCcore-12.3.0)

# The virtual environment in which raykd, or its requirements.txt, is installed. RAYKD_VENV in your environment overrides
# it, and must then exist.
RAYKD_DEFAULT_VENV=$HOME/.venvs/edl

# A container in which Ray and the experiments run, such as (apptainer exec --nv --bind /project /project/raykd.sif), and
# its Python. The environment above then needs only filelock. See "Containers" in docs/cluster.md. () is none.
RAYKD_CONTAINER=()
RAYKD_CONTAINER_PYTHON=python3

# The partition of the submit scripts, which overrides the #SBATCH line. If your site requires an account or a QOS,
# export SBATCH_ACCOUNT and SBATCH_QOS here too.
export SBATCH_PARTITION=${SBATCH_PARTITION:-markov_gpu}

# More options for every sbatch of the submit scripts, such as (--mail-type=END). A plain sbatch does not use them.
RAYKD_SBATCH_FLAGS=()

# Slurm's names of GPU types, best first. submit_best_gpu.sh requests the first that is free.
RAYKD_GPU_RANK=(h200 h100 a100 l40s rtx6000 a40 v100 rtx8000 a30 t4 p100)

# Ray's sockets and logs on a node: a local folder with a short path (18 characters always fit).
export RAYKD_TMP=${RAYKD_TMP:-/tmp}

# Scratch space for code and data while the job runs, with the same path on every node; '' stages nothing. Results never
# go there. Without this variable, it is the job's TMPDIR, if that is on a local disk. Slurm passes an exported TMPDIR of
# the login node to the job. To name a folder for jobs only:
#     [[ -z ${SLURM_JOB_ID:-} ]] || export RAYKD_SCRATCH=${RAYKD_SCRATCH-/local/$USER}

# The network interface that connects the nodes of a job, such as ib0, or a list such as ib0,hsn0,10.10.0.0/16, of which
# the first that a node has is used. '' is the one of the route to the second node.
export RAYKD_INTERFACE=${RAYKD_INTERFACE:-}

# How long Ray may take to start on a node, in seconds: minutes if many nodes read from one slow filesystem.
export RAYKD_START_TIMEOUT_S=${RAYKD_START_TIMEOUT_S:-180}

# 1: start NVIDIA's MPS in each job, so that runs that share a GPU (workers.gpus=0.25) compute at the same time. Measure
# first whether it helps: docs/performance.md, "Several runs on one GPU".
export RAYKD_MPS=${RAYKD_MPS:-0}

# How often an interrupted job may requeue itself; 0 disables requeueing.
export RAYKD_MAX_REQUEUES=${RAYKD_MAX_REQUEUES:-100}
