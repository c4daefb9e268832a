"""Print the MPS folder that a task on each of two nodes reads from its environment."""

import os

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@ray.remote(num_cpus=0, num_gpus=0.25)
def pipes() -> str:
    return os.environ["CUDA_MPS_PIPE_DIRECTORY"]


ray.init()
for node in ray.nodes():
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    print(f"pipes={ray.get(pipes.options(scheduling_strategy=here).remote())}", flush=True)
