"""Packing a bundle: building everything that the device is to time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwprune.artifact import atomic_directory, load_json, sha256_file, write_json
from hwprune.compile.link import target_architecture
from hwprune.errors import ArtifactError, UsageError
from hwprune.latency.choice import ChoiceTable, choice_label
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.measure.backend import TVM, backend_of
from hwprune.measure.build import Builder, BuildPool
from hwprune.measure.carry.bundle import (
    CarryManifest,
    Needs,
    PackedNetwork,
    program_digest,
)
from hwprune.measure.carry.device.main import BUNDLE_FORMAT, BUNDLE_VERSION, JOURNAL, MANIFEST, RESULTS
from hwprune.measure.carry.kernels import BundleKernels, Progress, build_kernels, take_sidecar
from hwprune.measure.carry.runtime import LIBRARIES, runtime_files
from hwprune.measure.carry.script import join_script
from hwprune.measure.provenance import command_line, git_state, versions
from hwprune.measure.stopping import QUICK, TABLE, MeasureProfile
from hwprune.measure.table_writer import timestamp
from hwprune.target import Target, required_flags

#: Values that arguments are filled with; as many as :class:`hwprune.compile.KernelRunner` takes.
BLOCK_VALUES = 4096
#: What stands for a project function on the device, where there is no numpy.
_INTERVAL = "hwprune.measure.carry.device.interval"
_REPLACED = {
    ("hwprune.measure.stats", "summarise"): (_INTERVAL, "median_interval"),
    ("hwprune.measure.stats", "quick_relative_width"): (_INTERVAL, "relative_width"),
}
_TITLE = """Times the kernels of this bundle on this machine: python3 run.py

Needs Python 3.8 or newer and nothing else. Made by `hwprune carry pack`; the definitions below are
those that hwprune itself measures with."""


@dataclass(frozen=True)
class PackReport:
    """What was packed. ``failures`` maps labels of kernels that could not be built to the reason."""

    directory: Path
    kernels: int
    networks: int
    failures: Mapping[str, str]
    size_bytes: int


def pack(
    specs: Sequence[KernelSpec],
    target: Target,
    directory: Path,
    *,
    pipeline: str,
    networks: Mapping[str, Program] | None = None,
    profile: MeasureProfile = QUICK,
    seed: int = 0,
    choices: ChoiceTable | None = None,
    runtime: Path | None = None,
    builder: Builder | None = None,
    progress: Progress = lambda what, done, total: None,
) -> PackReport:
    """Build kernels and networks into a directory that times them on a device that has only Python.

    Parameters
    ----------
    specs
        Kernels; duplicates are packed once.
    target
        What they are built for.
    directory
        Made, or replaced if it is an older bundle that has not been run.
    pipeline
        Pipeline hash of the builder.
    networks
        Whole networks to be timed end to end, by name.
    profile
        The care that the device is to take.
    seed
        Of the order of measurement.
    choices
        Searched forms of the kernels.
    runtime
        Directory with the runtime libraries of a foreign architecture.

    Raises
    ------
    UsageError
        The target is not compiled by TVM, or needs ``runtime``.
    ArtifactError
        The directory is not ours to replace, or holds results.
    MeasureError
        Not even the sentinel kernel can be built.
    """
    if target.kind != "cpu" or backend_of(target) is not TVM:
        raise UsageError(
            f"target '{target.name}' cannot be packed: only TVM libraries for processors can be carried",
            hint="choose a target of kind 'cpu' with the TVM backend",
        )
    architecture = target_architecture(target.tvm.get("mtriple"))
    files = runtime_files(architecture, runtime)
    _require_replaceable(directory)
    choices = choices or ChoiceTable()
    with ExitStack() as stack:
        if builder is None:
            builder = BuildPool(target, function=TVM.kernel_function)
            stack.callback(builder.close)
        folder = stack.enter_context(atomic_directory(directory, MANIFEST))
        (folder / "lib").mkdir()
        for name in LIBRARIES:
            shutil.copyfile(files[name], folder / "lib" / name)
        (folder / "values.bin").write_bytes(argument_values())
        (folder / "run.py").write_text(device_script())
        kernels = BundleKernels(specs, folder, choices)
        build_kernels(kernels, target, builder, check=profile.check_values, progress=progress)
        sentinel, pace, packed = kernels.packed()
        built = _build_networks(networks or {}, target, folder, choices, progress)
        found = sorted(path for path in folder.rglob("*") if path.is_file())
        manifest = CarryManifest(
            target=target,
            pipeline=pipeline,
            needs=Needs(
                architecture=architecture,
                flags=tuple(sorted(required_flags(target))),
                threads=target.threads,
            ),
            seed=seed,
            profile=profile.to_dict(),
            network_profile=max(profile, TABLE, key=lambda care: care.rounds).to_dict(),
            versions=dict(versions()),
            git=git_state(),
            command=command_line(),
            created=timestamp(),
            sentinel=sentinel,
            pace=pace,
            kernels=tuple(packed),
            unbuilt=tuple(kernels.unbuilt),
            networks=tuple(built),
            files={path.relative_to(folder).as_posix(): sha256_file(path) for path in found},
        )
        write_json(folder / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION, manifest.model_dump(mode="json"))
        size = sum(path.stat().st_size for path in found)
    failures = {item.label: item.reason for item in kernels.unbuilt}
    return PackReport(directory, len(packed), len(built), failures, size)


def device_script() -> str:
    """Source of ``run.py``."""
    return join_script("hwprune.measure.carry.device.main", "main", _TITLE, _REPLACED)


def argument_values() -> bytes:
    """The numbers that :class:`hwprune.compile.KernelRunner` fills arguments with, little-endian."""
    values = 0.05 * np.random.default_rng(0).standard_normal(BLOCK_VALUES)
    return values.astype("<f4").tobytes()


def _build_networks(
    networks: Mapping[str, Program], target: Target, folder: Path, choices: ChoiceTable, progress: Progress
) -> list[PackedNetwork]:
    built: list[PackedNetwork] = []
    for number, (name, program) in enumerate(networks.items()):
        progress(f"build {name} network", number, len(networks))
        path = folder / "networks" / f"{number}.so"
        backend_of(target).build_network(program, target, path, choices)
        how = take_sidecar(path, folder)
        digest = network_digest(program, choices)
        built.append(PackedNetwork(name=name, digest=digest, **how.model_dump()))
    return built


def network_digest(program: Program, choices: ChoiceTable) -> str:
    """Digest of a network in the forms that its kernels would be built in."""
    labels = {step.spec.digest(): choice_label(choices.get(step.spec)) for step in program.steps}
    return program_digest(program, labels)


def _require_replaceable(directory: Path) -> None:
    """Only a bundle that nobody has run is replaced."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    hint = "name a new directory, or remove this one"
    try:
        load_json(directory / MANIFEST, BUNDLE_FORMAT, BUNDLE_VERSION)
    except ArtifactError as error:
        raise ArtifactError(f"{directory} exists and is not a bundle to be carried", hint=hint) from error
    for name in (JOURNAL, RESULTS):
        if (directory / name).exists():
            raise ArtifactError(
                f"{directory} holds measurements ({name}), so it is not replaced",
                hint=f"read them first with `hwprune carry read`, then {hint}",
            )
