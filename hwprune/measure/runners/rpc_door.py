"""Doors to devices: where the next session with one is opened."""

from __future__ import annotations

from typing import Protocol

from hwprune.compile.remote import Endpoint
from hwprune.errors import DeviceLostError
from hwprune.measure.runners.rpc_address import Address, RpcPlace
from hwprune.measure.runners.rpc_tracker import Tracker

#: Longest wait for a tracker's device that others use.
WAIT_S = 600.0


class Door(Protocol):
    """Leads to one device at a time."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def fixed(self) -> bool:
        """Whether it always leads to the same device."""
        ...

    def open(self) -> Endpoint:
        """Where to open a session.

        Raises
        ------
        DeviceLostError
            It leads nowhere any more.
        """
        ...

    def known(self) -> bool:
        """False if it certainly leads nowhere."""
        ...


class ServerDoor:
    """To the one device behind a server's address."""

    fixed = True

    def __init__(self, address: Address, key: str) -> None:
        self.name = str(address)
        self._endpoint = Endpoint(address.host, address.port, key)

    def open(self) -> Endpoint:
        """See :class:`Door`."""
        return self._endpoint

    def known(self) -> bool:
        """True: only a session can tell."""
        return True


class TrackerDoor:
    """To whichever device of a kind is free."""

    fixed = False

    def __init__(self, tracker: Tracker, key: str, number: int) -> None:
        self.name = f"'{key}' (connection {number} to tracker {tracker.address})"
        self._tracker, self._key = tracker, key

    def open(self) -> Endpoint:
        """See :class:`Door`."""
        return self._tracker.request(self._key, WAIT_S)

    def known(self) -> bool:
        """Whether the tracker has such a device, free or not."""
        try:
            return self._tracker.require(self._key) > 0
        except DeviceLostError:
            return False


def doors(place: RpcPlace) -> list[Door]:
    """As many doors as devices can be used at the same time.

    Raises
    ------
    DeviceLostError
        The tracker does not answer, or knows no such device.
    """
    if place.tracker is None:
        return [ServerDoor(address, place.key) for address in place.servers]
    tracker = Tracker(place.tracker)
    return [TrackerDoor(tracker, place.key, i + 1) for i in range(tracker.require(place.key))]
