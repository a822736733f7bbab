"""Asks a TVM RPC tracker for devices.

The tracker speaks JSON behind a length of four bytes (protocol of ``tvm.rpc.tracker``). TVM's own
client waits for ever and brings the compiler along, so these few messages are sent from here.
"""

from __future__ import annotations

import json
import logging
import socket
import struct
import time
from collections import Counter
from typing import Any

from hwprune.compile.remote import Endpoint
from hwprune.errors import DeviceLostError
from hwprune.measure.runners.rpc_address import Address

MAGIC = 0x2F271
_REQUEST, _SUMMARY, _SUCCESS = 4, 6, 0
#: A tracker that takes longer for an answer it has is not there.
ANSWER_S = 10.0
#: Between two looks whether there still is a device to wait for.
LOOK_S = 1.0
#: After waiting this long for a device that others use, the user is told.
TELL_S = 10.0
_START = "start one there: python -m tvm.exec.rpc_tracker --host 0.0.0.0 --port {port} (needs 'hwprune[rpc]')"

_log = logging.getLogger(__name__)


class Tracker:
    """One question a connection: so it can be used from several threads, and survives restarts."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def keys(self) -> Counter[str]:
        """Number of devices by key.

        Raises
        ------
        DeviceLostError
            No tracker answers at the address.
        """
        with self._connect() as connection:
            summary = self._ask(connection, [_SUMMARY])
        servers = [str(info.get("key", "")) for info in summary["server_info"]]
        return Counter(name.removeprefix("server:") for name in servers if name.startswith("server:"))

    def require(self, key: str) -> int:
        """Number of devices of a kind.

        Raises
        ------
        DeviceLostError
            There is none; the message lists the keys there are.
        """
        keys = self.keys()
        if not keys[key]:
            known = ", ".join(f"'{name}' ({count})" for name, count in sorted(keys.items())) or "no devices"
            raise DeviceLostError(
                f"no device '{key}' is registered with tracker {self.address}; it knows {known}",
                hint=f"start the device's server: python -m tvm.exec.rpc_server --tracker {self.address}"
                f" --key {key}",
            )
        return keys[key]

    def request(self, key: str, wait_s: float) -> Endpoint:
        """A free device, for one session; waits while others use them all.

        Raises
        ------
        DeviceLostError
            There is none (any more), or none became free in time.
        """
        start, told = time.monotonic(), False
        with self._connect() as connection:
            _send(connection, [_REQUEST, key, "", 1])
            connection.settimeout(LOOK_S)
            while not self._answered(connection):
                waited = time.monotonic() - start
                self.require(key)
                if waited > wait_s:
                    raise DeviceLostError(
                        f"no device '{key}' of tracker {self.address} became free within {wait_s:g} s",
                        hint="others use them; look with: python -m tvm.exec.query_rpc_tracker"
                        f" --host {self.address.host} --port {self.address.port}",
                    )
                if waited > TELL_S and not told:
                    _log.warning("waiting for a device '%s' of tracker %s", key, self.address)
                    told = True
            connection.settimeout(ANSWER_S)
            host, port, match = self._answer(connection)
        return Endpoint(str(host), int(port), str(match))

    @staticmethod
    def _answered(connection: socket.socket) -> bool:
        """Whether there is something to read before the connection's time limit."""
        try:
            connection.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        except OSError:
            return True  # reading it will say what is wrong
        return True

    def _connect(self) -> socket.socket:
        try:
            connection = socket.create_connection((self.address.host, self.address.port), timeout=ANSWER_S)
        except OSError as error:
            raise DeviceLostError(
                f"no RPC tracker answers at {self.address}: {error.strerror or error}",
                hint=_START.format(port=self.address.port),
            ) from error
        try:
            connection.sendall(struct.pack("<i", MAGIC))
            magic = struct.unpack("<i", _receive(connection, 4))[0]
        except OSError:
            magic = None
        if magic != MAGIC:
            connection.close()
            raise DeviceLostError(
                f"what answers at {self.address} is not an RPC tracker",
                hint="a server's address goes to --rpc; " + _START.format(port=self.address.port),
            )
        return connection

    def _ask(self, connection: socket.socket, message: list[Any]) -> Any:
        _send(connection, message)
        return self._answer(connection)

    def _answer(self, connection: socket.socket) -> Any:
        try:
            size = struct.unpack("<i", _receive(connection, 4))[0]
            code, value = json.loads(_receive(connection, size))
        except (OSError, ValueError) as error:
            raise DeviceLostError(
                f"tracker {self.address} broke off: {error}", hint=_START.format(port=self.address.port)
            ) from error
        if code != _SUCCESS:
            raise DeviceLostError(f"tracker {self.address} refused: {value}")
        return value


def _send(connection: socket.socket, message: list[Any]) -> None:
    data = json.dumps(message).encode()
    connection.sendall(struct.pack("<i", len(data)) + data)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed")
        data += part
    return data
