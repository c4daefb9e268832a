"""The address of the job's head, chosen by the user or by the route to another node. No Slurm, no Ray."""

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from raykd.cluster import worker_node
from raykd.cluster.node_address import head_address, interface_addresses, interface_of, socket_variables
from raykd.errors import ConfigError, RayNotStarted

DOCUMENTATION = "192.0.2.1"  # an address that no machine has, RFC 5737
# A node in a network of its own, without a route to the internet, that resolves its name to 127.0.1.1. Ray would take
# that address.
NODE = """
ip link set lo up; ip link add eth9 type veth peer name peer9; ip addr add 10.77.0.5/24 dev eth9
ip link set eth9 up; ip link set peer9 up
exec "$@"
"""
ISOLATED = ["unshare", "--user", "--map-root-user", "--net", "bash", "-e", "-c"]
# An older interface, whose name starts with that of the other one.
TWO_NETWORKS = """
ip link set lo up
for pair in ib10=10.9.0.1 ib1=10.8.0.1; do
    name=${pair%=*}
    ip link add $name type veth peer name peer-$name; ip addr add ${pair#*=}/24 dev $name
    ip link set $name up; ip link set peer-$name up
done
exec "$@"
"""
NCCL_ID = """
import ctypes, os, sys
os._exit(ctypes.CDLL(sys.argv[1]).ncclGetUniqueId(ctypes.create_string_buffer(128)))
"""


def test_the_head_has_the_address_on_the_route_to_another_node_without_a_route_to_the_internet() -> None:
    program = "from raykd.cluster.node_address import head_address; print(head_address(['10.77.0.9'], {}))"
    isolated = [*ISOLATED, NODE, "node"]
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*isolated, sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.stdout, done.stderr) == ("10.77.0.5\n", "")


def test_an_interface_that_the_user_names_has_priority() -> None:
    assert head_address([DOCUMENTATION], {"RAYKD_INTERFACE": "lo"}) == "127.0.0.1"


def test_an_interface_that_the_node_lacks_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ConfigError, match=r"^RAYKD_INTERFACE = 'ib7': \S+ has no such interface .*lo \(127\.0\.0\.1\)"):
        head_address([DOCUMENTATION], {"RAYKD_INTERFACE": "ib7"})


@pytest.mark.parametrize("names", ["ib7,lo", "ib7, 127.0.0.0/8", "127.0.0.1"])
def test_nodes_may_have_different_interfaces(names: str) -> None:
    assert head_address([DOCUMENTATION], {"RAYKD_INTERFACE": names}) == "127.0.0.1"


@pytest.mark.parametrize("node", ["no-such-node.invalid", "127.0.0.1"])
def test_ray_chooses_the_address_if_the_other_nodes_name_leads_nowhere(node: str) -> None:
    assert head_address([node], {}) == ""


def test_ray_chooses_the_address_on_one_node() -> None:
    assert head_address([], {}) == head_address([], {"RAYKD_INTERFACE": "ib7"}) == "", "it may lack the interface"


def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == socket.if_indextoname(1) == "lo"
    assert interface_of(DOCUMENTATION) is None
    assert interface_addresses()["lo"] == "127.0.0.1"


def test_a_node_that_cannot_reach_the_head_names_the_address_and_the_remedy() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # does not listen
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(RayNotStarted, match=rf"^cn2 cannot connect to Ray's head at {address} \(.*set RAYKD_INTER"):
            worker_node._require_connection("cn2", address)


def nccl_libraries() -> list[Path]:
    """Return the library of NCCL that torch loads; [] if torch has none."""
    spec = find_spec("nvidia.nccl") if find_spec("nvidia") else None
    folders = spec.submodule_search_locations if spec else None
    return [path for folder in folders or () for path in Path(folder).rglob("libnccl.so.2")]


@pytest.mark.parametrize(("interface", "address"), [("ib1", "10.8.0.1"), ("ib10", "10.9.0.1"), ("lo", "127.0.0.1")])
def test_nccl_uses_the_interface_of_that_name_and_none_whose_name_starts_with_it(interface: str, address: str) -> None:
    """NCCL chooses the interface before it looks for a GPU."""
    if not (libraries := nccl_libraries()):
        pytest.skip("this torch has no NCCL")
    environ = os.environ | {"NCCL_DEBUG": "INFO"} | socket_variables(interface)
    command = [*ISOLATED, TWO_NETWORKS, "node", sys.executable, "-c", NCCL_ID, str(libraries[0])]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert f"Bootstrap: Using {interface}:{address}<0>" in done.stdout and done.returncode == 0, done


def test_gloo_uses_the_same_interface() -> None:
    assert socket_variables("ib1")["GLOO_SOCKET_IFNAME"] == "ib1"
