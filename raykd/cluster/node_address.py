"""The address of the job's head, to which the other nodes connect.

    RAYKD_INTERFACE=ib0                     the network interface that connects the nodes
    RAYKD_INTERFACE=ib0,hsn0,10.10.0.0/16   the first that a node has: interfaces, and networks of their addresses

By default it is that of the route to another node. A job of one node needs none.

Ray would choose the interface that leads to the internet. A compute node may have no such route. Ray then takes the
address to which the node resolves its own name, and many systems resolve it to 127.0.1.1.
"""

import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from raykd.errors import ConfigError, shown

VARIABLE = "RAYKD_INTERFACE"
SIOCGIFADDR = 0x8915  # ioctl(2) for the IPv4 address of an interface, at byte 20 of the answer
LOOPBACK = "127."
ANY_PORT = 9


def head_address(other_nodes: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the head's IPv4 address, or '' if Ray has to choose it. other_nodes: names of the job's other nodes.

    Raises ConfigError if this node has no interface of RAYKD_INTERFACE with an address.
    """
    if not other_nodes:
        return ""
    if not (names := environ.get(VARIABLE)):
        return _address_towards(other_nodes[0])
    addresses = interface_addresses()
    for name in names.split(","):
        for interface, address in addresses.items():
            if name.strip() == interface or _is_in(address, name.strip()):
                return address
    known = ", ".join(f"{interface} ({address})" for interface, address in addresses.items())
    raise ConfigError(
        f"{VARIABLE} = {shown(names)}: {socket.gethostname()} has no such interface with an IPv4 address; it has "
        f"{known or 'none'}"
    )


def _is_in(address: str, network: str) -> bool:
    """Return whether `network` is one, such as 10.10.0.0/16, that contains `address`."""
    try:
        return IPv4Address(address) in IPv4Network(network, strict=False)
    except ValueError:  # the name of an interface
        return False


def interface_addresses() -> dict[str, str]:
    """Return the IPv4 address of each interface of this node that has one."""
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as descriptor:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(descriptor, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no IPv4 address
                continue
            addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def interface_of(address: str) -> str | None:
    """Return the interface of this node with the IPv4 `address`, or None."""
    return next((name for name, other in interface_addresses().items() if other == address), None)


def socket_variables(interface: str) -> dict[str, str]:
    """Return the variables with which gloo and NCCL use the network interface of this name.

    Without '=', NCCL also uses interfaces whose names start with it: bond0.100, of another network, for bond0.
    """
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}


def _address_towards(node: str) -> str:
    """Return this node's address on the route to `node`; '' if its name is unknown or leads back to this node."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((node, ANY_PORT))  # sends nothing
            address = probe.getsockname()[0]
        except OSError:
            return ""
    return "" if address.startswith(LOOPBACK) else address
