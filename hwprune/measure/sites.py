"""Which site a target is measured at."""

from __future__ import annotations

from pathlib import Path

from hwprune.errors import UsageError
from hwprune.measure.rpc_site import RpcSite
from hwprune.measure.runners.carry import CarriedSite
from hwprune.measure.runners.rpc_address import rpc_place
from hwprune.measure.site import LocalSite, Site
from hwprune.target import Target


def site_for(
    target: Target,
    rpc: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    *,
    device: str | None = None,
    tables: Path | None = None,
) -> Site:
    """The site that options name; else what the target's runner asks for.

    Parameters
    ----------
    target
        With ``runner = "rpc"`` the environment (``HWPRUNE_RPC``, or ``HWPRUNE_TRACKER`` and
        ``HWPRUNE_RPC_KEY``) is looked at where the options are silent.
    rpc, tracker, key
        See :func:`hwprune.measure.runners.rpc_address.rpc_place`.
    device, tables
        Slug of a device that cannot be reached, and root of the tables that its own is among.

    Raises
    ------
    UsageError
        The options contradict each other, or a part is missing.
    TableError
        There is no table of ``device``.
    """
    if device is not None:
        if rpc or tracker:
            raise UsageError(
                "--device names a device that cannot be reached, --rpc and --tracker one that can",
                hint="leave one of them out",
            )
        return CarriedSite(device, target, tables)
    place = rpc_place(rpc, tracker, key, environment=target.runner == "rpc")
    return RpcSite(place, target) if place else LocalSite()
