"""Write as JSON what a task on each node of the job has there, and end with the requested exit code."""

import json
import os
import socket
import sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.orchestration.session import ray_session


@ray.remote(num_cpus=0)
def look() -> dict[str, str | list[str]]:
    import raykd  # here: of the worker, not of the driver

    token_path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    return {
        "host": socket.gethostname(),
        "token_path": str(token_path),
        "token_mode": oct(token_path.stat().st_mode & 0o777),
        "folder_mode": oct(token_path.parent.stat().st_mode & 0o777),
        "raykd": str(Path(raykd.__file__).parent),
        "data": os.environ["RAYKD_DATA"],
        "data_files": sorted(path.name for path in Path(os.environ["RAYKD_DATA"]).iterdir()),
    }


with ray_session():
    nodes = ray.nodes()
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    found = ray.get([look.options(scheduling_strategy=strategy).remote() for strategy in there])
    report = [node["Resources"] | facts for node, facts in zip(nodes, found, strict=True)]
Path(sys.argv[1]).write_text(json.dumps(report))
sys.exit(int(sys.argv[2]))
