"""A real munged, slurmctld and N slurmds with fake GPUs, in namespaces of their own on one machine.

    with Testbed.start(folder, num_nodes=1) as slurm:
        job_id = slurm.sbatch(["slurm/ray_cluster.slurm", "experiments/digits.py"], cwd=repository)
        job = slurm.wait(job_id, timeout_s=120)   # Job(state="COMPLETED", exit_code=0, output="...")

The filesystem is this machine's; network, processes, hostnames and /dev/shm are the testbed's. Everything
hangs on one process and on a pipe to it, so it ends with the caller, also when that is killed. Slurm
counts the GPUs, torch sees none. Needs root on Linux with Debian's slurm-wlm, munge and iproute2.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "ip", "unshare", "nsenter")
NODE_CPUS = 16  # more than the script asks for; slurmd does not check them against the machine
NODE_MEMORY_MB = 64_000
NODE_GPUS = 2
KINDS = ("h100", "h100", "a100")  # of GPU, on cn1, cn2, cn3
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
COMMAND_TIMEOUT_S = 20
START_TIMEOUT_S = 20
POLL_S = 0.5  # between questions to Slurm, each of which starts two processes


def missing() -> str:
    """Return what this machine lacks for a testbed, or ''."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Slurm testbed needs root on Linux (network and PID namespaces)"
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"a Slurm testbed needs {', '.join(absent)}: bash tests/install_packages.sh"
    return ""


@dataclass(frozen=True)
class Job:
    """How a job ended: Slurm's state, the batch script's exit code (0-255), its output file."""

    state: str
    exit_code: int
    output: str


@dataclass
class Testbed:
    """A running Slurm whose partition is markov_gpu and whose nodes are cn1, cn2, ..."""

    __test__ = False  # pytest: this is no test class

    folder: Path
    num_nodes: int
    namespaces: subprocess.Popen = field(init=False, repr=False)
    job_ids: list[int] = field(default_factory=list)  # all that were submitted, in order

    @classmethod
    def start(cls, folder: Path, num_nodes: int = len(KINDS), settings: str = "") -> "Testbed":
        """Start a testbed with state and logs in `folder`. Raises RuntimeError if it is not idle in time.

        settings: lines that are appended to slurm.conf, where they override earlier ones.
        """
        bed = cls(folder, num_nodes)
        _write_configuration(folder, num_nodes, settings)
        command = ["unshare", "--net", "--uts", "--pid", "--ipc", "--mount", "--fork", "--mount-proc"]
        command += ["--kill-child", "bash", str(HERE / "testbed.sh"), str(folder), str(num_nodes)]
        bed.namespaces = subprocess.Popen(command, stdin=subprocess.PIPE, env=bed._environment({}))
        try:
            bed._wait_until_idle()
        except BaseException:
            bed.stop()
            raise
        return bed

    def __enter__(self) -> "Testbed":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything: close the pipe, and kill what is left 5 s later. May be called twice."""
        assert self.namespaces.stdin is not None
        self.namespaces.stdin.close()
        try:
            self.namespaces.wait(5)
        except subprocess.TimeoutExpired:
            self.namespaces.kill()
            self.namespaces.wait(5)

    def run(
        self,
        command: Sequence[str],
        cwd: Path | None = None,
        env: Mapping[str, str | None] | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> str:
        """Return the standard output of a command on the login host. `env` adds variables; None removes one.

        Raises RuntimeError with its standard error if it fails or takes longer than `timeout_s`.
        """
        enter = ["nsenter", f"--target={self._first_process()}", f"--wd={cwd or self.folder}"]
        enter += ["--net", "--uts", "--pid", "--ipc", "--mount", "--", *command]
        limited = ["timeout", "--kill-after=2", str(timeout_s), *enter]
        done = subprocess.run(limited, env=self._environment(env or {}), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def sbatch(self, args: Sequence[str], cwd: Path, env: Mapping[str, str | None] | None = None) -> int:
        """Submit from `cwd` and return the job's id.

        Jobs run the Python that runs the tests, and write to the testbed's folder unless `args` say where.
        """
        command = ["sbatch", "--parsable", f"--output={self.folder}/slurm-%j.out", *args]
        self.job_ids.append(int(self.run(command, cwd, env).split(";")[0]))
        return self.job_ids[-1]

    def wait(self, job_id: int, timeout_s: float) -> Job:
        """Wait for a job's end. If it takes longer, cancel it. Raises RuntimeError with its output."""
        deadline = time.monotonic() + timeout_s
        while (fields := self.job(job_id))["JobState"] not in ENDED:
            if time.monotonic() > deadline:
                self.run(["scancel", str(job_id)])
                state, output = fields["JobState"], self.output(job_id)
                raise RuntimeError(f"job {job_id} is {state} after {timeout_s} s; its output:\n{output}")
            time.sleep(POLL_S)
        return Job(fields["JobState"], int(fields["ExitCode"].split(":")[0]), self.output(job_id))

    def wait_for_output(self, job_id: int, text: str, timeout_s: float) -> None:
        """Wait until a job's output contains `text`. Raises RuntimeError if it ends or takes longer."""
        deadline = time.monotonic() + timeout_s
        fields = self.job(job_id)
        while text not in (output := _output_of(fields)):
            if time.monotonic() > deadline or fields["JobState"] in ENDED:
                raise RuntimeError(f"job {job_id} never printed {text!r}; its output:\n{output}")
            time.sleep(POLL_S)
            fields = self.job(job_id)

    def job(self, job_id: int) -> dict[str, str]:
        """Return the fields that `scontrol show job` prints."""
        words = self.run(["scontrol", "show", "job", "--oneliner", str(job_id)]).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def output(self, job_id: int) -> str:
        """Return a job's output until now; the path of its output file must not contain spaces."""
        return _output_of(self.job(job_id))

    def power_off(self, name: str) -> None:
        """Power off a node: its network and processes are lost immediately and permanently."""
        self.run(["ip", "link", "set", name.replace("cn", "node"), "down"])
        lines = self.run(["ps", "-eww", "-o", "pid=,args="]).splitlines()
        (process,) = (line.split()[0] for line in lines if "unshare --net" in line and f" node {name} " in line)
        self.run(["kill", "-KILL", process])  # its child, process 1 of the node, dies with it, and so all others

    def processes(self) -> list[str]:
        """Return the command lines of all processes in the testbed except Slurm's daemons."""
        own = ("munged", "slurmctld", ": slurmscriptd", "slurmd", f"bash {HERE}", "unshare --net", "ps ")
        lines = self.run(["ps", "-eww", "-o", "args="]).splitlines()
        return [line for line in lines if not line.removeprefix("/usr/sbin/").startswith(own)]

    def _environment(self, changes: Mapping[str, str | None]) -> dict[str, str]:
        """Return an environment with few of the caller's variables, so that tests see what a job sets."""
        env: dict[str, str | None] = {name: os.environ.get(name) for name in ("HOME", "LANG", "USER")}
        env |= {"PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf"), "RAYKD_VENV": sys.prefix}
        return {name: value for name, value in (env | dict(changes)).items() if value is not None}

    def _first_process(self) -> int:
        outer = self.namespaces.pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        reason = "nothing started"
        while time.monotonic() < deadline:
            if self.namespaces.poll() is not None:
                break
            try:
                states = self.run(
                    ["sinfo", "--noheader", "--Node", "--partition=markov_gpu", "--format=%T"], timeout_s=2
                ).split()
                if states == ["idle"] * self.num_nodes:
                    return
                reason = f"nodes are {states}"
            except (RuntimeError, OSError, IndexError) as error:  # not up yet
                reason = str(error)
            time.sleep(0.05)
        raise RuntimeError(f"testbed not idle after {START_TIMEOUT_S} s: {reason}; see {self.folder}/log")


def _output_of(fields: Mapping[str, str]) -> str:
    """Return the content of the output file that a job's fields name, or '' if it does not exist yet."""
    path = Path(fields["StdOut"])
    return path.read_text(errors="replace") if path.exists() else ""


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def _write_configuration(folder: Path, num_nodes: int, added: str) -> None:
    """Write the key, the hosts, the GPUs' device files and Slurm's three files to `folder`."""
    for name in ("log", "run", "state", "spool", "dev"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    names = {f"cn{number}": f"10.88.0.{10 + number}" for number in range(1, num_nodes + 1)}
    hosts = ["127.0.0.1 localhost", "10.88.0.1 login", *(f"{ip} {name}" for name, ip in names.items())]
    (folder / "hosts").write_text("\n".join(hosts) + "\n")
    for gpu in range(NODE_GPUS):  # Slurm counts device files; character device 195 is NVIDIA's
        os.mknod(folder / f"dev/nvidia{gpu}", 0o020666, os.makedev(195, gpu))
    kinds = dict(zip(names, KINDS, strict=False))
    nodes = [
        f"NodeName={name} NodeAddr={ip} CPUs={NODE_CPUS} RealMemory={NODE_MEMORY_MB} "
        f"Gres=gpu:{kinds[name]}:{NODE_GPUS} Feature={kinds[name]}"
        for name, ip in names.items()
    ]
    template = (HERE / "slurm.conf").read_text()
    # Another range of job ids for each testbed, because /tmp and its folders named by job id are shared.
    settings = {"@FOLDER@": str(folder), "@FIRST_JOB@": str(1_000 + secrets.randbelow(60_000_000))}
    for placeholder, value in settings.items():
        template = template.replace(placeholder, value)
    (folder / "slurm.conf").write_text(template + "\n".join(nodes) + "\n" + added)
    devices = f"{folder}/dev/nvidia[0-{NODE_GPUS - 1}]"
    gres = (f"NodeName={name} Name=gpu Type={kind} File={devices}\n" for name, kind in kinds.items())
    (folder / "gres.conf").write_text("".join(gres))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
