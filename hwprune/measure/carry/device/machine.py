"""Whether this machine can run a bundle, and what time it is."""

from __future__ import annotations

import platform
import time
from typing import Any


def utc_now() -> str:
    """Now, in UTC, to the second (ISO 8601)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def unfit(needs: dict[str, Any], flags: set[str], cores: int) -> str | None:
    """Why this machine cannot run a bundle, if it cannot.

    Parameters
    ----------
    needs
        See :class:`hwprune.measure.carry.bundle.Needs`.
    flags
        Of this processor, as the operating system names them.
    cores
        Cores that this process may use.
    """
    here = platform.machine().lower()
    here = {"amd64": "x86_64", "arm64": "aarch64"}.get(here, here)
    if here != needs["architecture"]:
        return f"this bundle is for {needs['architecture']}, this machine is {here}"
    missing = sorted(set(needs["flags"]) - flags)
    if missing:
        return f"this bundle's kernels need {', '.join(missing)}, which this processor lacks"
    if cores < int(needs["threads"]):
        return f"this bundle's kernels use {needs['threads']} threads, this process may use {cores} cores"
    return None
