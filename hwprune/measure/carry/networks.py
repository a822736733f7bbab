"""Whole networks that a device has timed, kept beside its latency table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hwprune.artifact import read_json, write_json
from hwprune.errors import ArtifactError
from hwprune.measure.stats import Summary, summarise

NETWORKS_NAME = "networks.json"
NETWORKS_KIND = "hwprune-carried-networks"
NETWORKS_VERSION = 1


class CarriedNetwork(BaseModel):
    """One network. ``digest`` says which kernels in which forms; samples are nanoseconds per run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    name: str
    measured_at: str
    bundle: str
    disturbed: str | None
    samples_ns: tuple[float, ...]

    def summary(self) -> Summary:
        """Statistics of the samples."""
        return summarise(self.samples_ns)


@dataclass(frozen=True)
class CarriedNetworks:
    """All networks of one device and pipeline, by digest."""

    networks: dict[str, CarriedNetwork]

    @staticmethod
    def load(directory: Path) -> CarriedNetworks:
        """Read them from a table's directory; none if there is no file.

        Raises
        ------
        ArtifactError
            The file is damaged or was edited.
        """
        path = directory / NETWORKS_NAME
        if not path.is_file():
            return CarriedNetworks({})
        data = read_json(path, NETWORKS_KIND, NETWORKS_VERSION)
        try:
            found = [CarriedNetwork.model_validate(item) for item in data["networks"]]
        except (KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(
                f"{path}: {error}", hint="delete the file and read the device's results again"
            ) from error
        return CarriedNetworks({network.digest: network for network in found})

    def with_networks(self, networks: Iterable[CarriedNetwork]) -> CarriedNetworks:
        """With newer timings; a disturbed one replaces none that was not."""
        known = dict(self.networks)
        for network in networks:
            old = known.get(network.digest)
            if old is None or old.disturbed is not None or network.disturbed is None:
                known[network.digest] = network
        return CarriedNetworks(known)

    def save(self, directory: Path) -> None:
        """Write them into a table's directory."""
        items = [self.networks[digest].model_dump(mode="json") for digest in sorted(self.networks)]
        write_json(directory / NETWORKS_NAME, NETWORKS_KIND, NETWORKS_VERSION, {"networks": items})
