"""Reading what a device has measured, and making sure that it is what the device wrote."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hwprune.errors import ArtifactError
from hwprune.measure.carry.bundle import CarryBundle, load_carry_bundle
from hwprune.measure.carry.device.main import (
    MANIFEST,
    RESULTS,
    RESULTS_FORMAT,
    RESULTS_VERSION,
    payload_sha256,
)
from hwprune.measure.device import Device
from hwprune.measure.sampling import Sampled

_AGAIN = "copy the file from the device again; if it is like that there, run run.py again"
Nanoseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SampledResult(BaseModel):
    """Raw samples; the other fields are those of :class:`hwprune.measure.sampling.Sampled`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    samples_ns: tuple[Nanoseconds, ...] = Field(min_length=1)

    def sampled(self) -> Sampled:
        """As the profiler has it."""
        return Sampled.from_dict({**self.model_dump(), "samples_ns": list(self.samples_ns)})


class KernelResult(_Strict):
    """One kernel; see :class:`hwprune.measure.carry.device.journal.KernelState`."""

    digest: str
    at: str
    parts: tuple[SampledResult, ...]
    spoiled: tuple[SampledResult, ...]
    why: str | None
    failure: str | None


class SentinelResult(_Strict):
    """Timings of the sentinel, and the reference (ns) that was valid from then on.

    ``disturbed`` says what spoiled it as a reference.
    """

    what: Literal["sentinel"]
    at: str
    parts: tuple[SampledResult, ...] = Field(min_length=1)
    reference: Nanoseconds
    disturbed: str | None


class NetworkResult(_Strict):
    """A whole network; no samples if it failed."""

    what: Literal["network"]
    name: str
    at: str
    samples_ns: tuple[Nanoseconds, ...]
    failure: str | None
    disturbed: str | None


class SessionResult(_Strict):
    """One call of the script on the device."""

    what: Literal["session"]
    bundle: str
    device: dict[str, Any]
    cores: tuple[int, ...]
    system: str
    python: str
    command: tuple[str, ...]
    at: str
    conditions: dict[str, Any] | None = None


class Results(_Strict):
    """Payload of ``results.json.gz``. ``missing`` kernels were not reached."""

    bundle: str
    sessions: tuple[SessionResult, ...] = Field(min_length=1)
    sentinel: tuple[SentinelResult, ...]
    kernels: tuple[KernelResult, ...]
    networks: tuple[NetworkResult, ...]
    missing: tuple[str, ...]

    @property
    def device(self) -> Device:
        """The device, as it described itself last."""
        return Device.from_dict(self.sessions[-1].device)


@dataclass(frozen=True)
class Carried:
    """A bundle and what a device has measured of it, in the file ``path``."""

    path: Path
    bundle: CarryBundle
    results: Results


def open_carried(place: Path, bundle: Path | None = None) -> Carried:
    """Verify a bundle and the results that came back.

    Parameters
    ----------
    place
        The bundle's directory as it came back, or the results file alone.
    bundle
        Directory of the bundle. Default: where the results file lies.

    Raises
    ------
    ArtifactError
        The bundle or the results were changed, do not belong together, are cut off or missing.
    """
    path = place / RESULTS if place.is_dir() else place
    folder = bundle or path.parent
    results = read_results(path)
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} holds no bundle ({MANIFEST}) that {path.name} could belong to",
            hint="name the directory that hwprune carry pack wrote with --bundle",
        )
    packed = load_carry_bundle(folder)
    if results.bundle != packed.digest:
        raise ArtifactError(
            f"{path} was measured with another bundle (manifest {results.bundle[:12]}) than {folder}"
            f" (manifest {packed.digest[:12]})",
            hint="name the directory of the bundle that was on the device with --bundle",
        )
    known = {kernel.digest for kernel in packed.manifest.kernels}
    networks = {network.name for network in packed.manifest.networks}
    strange = [k.digest for k in results.kernels if k.digest not in known]
    strange += [n.name for n in results.networks if n.name not in networks]
    if strange:
        raise ArtifactError(f"{path} times '{strange[0]}', which is not in its bundle", hint=_AGAIN)
    return Carried(path, packed, results)


def read_results(path: Path) -> Results:
    """Read a results file and compare it with its checksum.

    Raises
    ------
    ArtifactError
        Missing, cut off, edited, or of another version.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            data: object = json.load(file)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} does not exist",
            hint="run `python3 run.py` in the bundle on the device, and carry it back",
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged or cut off: {error}", hint=_AGAIN) from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", hint="check the path") from error
    if not isinstance(data, dict) or set(data) != {"format", "version", "sha256", "payload"}:  # pyright: ignore[reportUnknownArgumentType]
        raise ArtifactError(f"{path} is not a results file of a carried bundle", hint="check the path")
    envelope: dict[str, Any] = data  # pyright: ignore[reportUnknownVariableType]
    if (envelope["format"], envelope["version"]) != (RESULTS_FORMAT, RESULTS_VERSION):
        raise ArtifactError(
            f"{path} is a {envelope['format']} file of version {envelope['version']},"
            f" not {RESULTS_FORMAT} version {RESULTS_VERSION}",
            hint="read it with the version of hwprune that packed the bundle",
        )
    if payload_sha256(envelope["payload"]) != envelope["sha256"]:
        raise ArtifactError(
            f"{path} was edited after it was measured (its checksum does not match)", hint=_AGAIN
        )
    try:
        return Results.model_validate(envelope["payload"])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path}: {where}: {first['msg']}", hint=_AGAIN) from error
