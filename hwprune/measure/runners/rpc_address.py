"""Addresses of RPC servers and trackers, as users write them."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hwprune.errors import UsageError

#: Where commands look when they are not told.
SERVERS_VARIABLE = "HWPRUNE_RPC"
TRACKER_VARIABLE = "HWPRUNE_TRACKER"
KEY_VARIABLE = "HWPRUNE_RPC_KEY"
_EXAMPLE = "write HOST:PORT, e.g. 192.168.1.20:9090, or [fe80::1]:9090"


@dataclass(frozen=True)
class Address:
    """Host name or number, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @staticmethod
    def parse(text: str) -> Address:
        """From ``host:port``.

        Raises
        ------
        UsageError
            It is not.
        """
        host, colon, port = text.strip().rpartition(":")
        host = host.strip("[]")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"'{text}' is not the address of a server", hint=_EXAMPLE)
        return Address(host, int(port))


@dataclass(frozen=True)
class RpcPlace:
    """How devices of one kind are reached: servers one by one, or a tracker that knows them.

    Attributes
    ----------
    servers
        RPC servers, one per device; empty with a tracker.
    tracker
        The RPC tracker that hands out devices.
    key
        The kind of device, as its servers were told with ``--key``.
    """

    servers: tuple[Address, ...] = ()
    tracker: Address | None = None
    key: str = ""

    def __str__(self) -> str:
        if self.tracker is not None:
            return f"devices '{self.key}' of tracker {self.tracker}"
        return ", ".join(map(str, self.servers))

    def reached(self) -> dict[str, str]:
        """For a table's provenance."""
        where = {"tracker": str(self.tracker)} if self.tracker else {"servers": str(self)}
        return {"runner": "rpc", **where, **({"key": self.key} if self.key else {})}


def rpc_place(
    rpc: str | None = None, tracker: str | None = None, key: str | None = None, *, environment: bool = False
) -> RpcPlace | None:
    """What options say; None if they are silent.

    Parameters
    ----------
    rpc
        ``HOST:PORT`` of an RPC server; several, of devices of one kind, with commas.
    tracker
        ``HOST:PORT`` of an RPC tracker.
    key
        What the tracker calls the devices.
    environment
        Whether environment variables count where the options are silent.

    Raises
    ------
    UsageError
        They contradict each other, or a part is missing.
    """
    if environment and rpc is None and tracker is None:
        rpc, tracker = os.environ.get(SERVERS_VARIABLE), os.environ.get(TRACKER_VARIABLE)
        key = key or os.environ.get(KEY_VARIABLE)
    if rpc and tracker:
        raise UsageError(
            "a server and a tracker were both given", hint="give --rpc, or --tracker with --key, not both"
        )
    if tracker:
        if not key:
            raise UsageError(
                f"tracker {tracker} has devices of several kinds: which?",
                hint="add --key NAME, the name that the devices' servers were started with",
            )
        return RpcPlace(tracker=Address.parse(tracker), key=key)
    if rpc:
        servers = tuple(Address.parse(part) for part in rpc.split(",") if part.strip())
        if len(set(servers)) < len(servers):
            raise UsageError(f"'{rpc}' names a server twice", hint="name every device once")
        return RpcPlace(servers=servers, key=key or "")
    if key:
        raise UsageError("--key names a kind of device of a tracker", hint="add --tracker HOST:PORT")
    return None
