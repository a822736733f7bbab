"""The kernels of a bundle: built, run once, compared with PyTorch, and described."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwprune.errors import MeasureError
from hwprune.latency.choice import ChoiceTable, choice_label
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.latency.rows import one_line
from hwprune.measure.build import Builder, BuildJob
from hwprune.measure.carry.bundle import PackedKernel, PackedLibrary, Unbuilt
from hwprune.measure.carry.probe import Expected, can_probe, probe
from hwprune.measure.rotation import copies_for, sentinel_spec
from hwprune.measure.values import CheckPool
from hwprune.target import Target

Progress = Callable[[str, int, int], None]


def pace_spec() -> KernelSpec:
    """Fixed work that stays in the first-level cache: the product of a 32x64 and a 64x64 matrix."""
    return KernelSpec(
        (KernelInput((32, 64), "data"), KernelInput((64, 64), "weight")), (KernelOp("linear", (0, 1, -1)),)
    )


class BundleKernels:
    """The kernels of a bundle on their way from specs to checked libraries."""

    def __init__(self, specs: Sequence[KernelSpec], folder: Path, choices: ChoiceTable) -> None:
        self._folder = folder
        self._sentinel, self._pace = sentinel_spec().digest(), pace_spec().digest()
        self._wanted = list(dict.fromkeys(spec.digest() for spec in specs))
        unique = {spec.digest(): spec for spec in [sentinel_spec(), pace_spec(), *specs]}
        #: Jobs of libraries that nothing speaks against so far.
        self.jobs = [
            BuildJob(spec, folder / "kernels" / f"{digest}.so", self._copies(spec), choices.get(spec))
            for digest, spec in unique.items()
        ]
        self.expected: dict[str, Expected] = {}
        self.unbuilt: list[Unbuilt] = []

    def _copies(self, spec: KernelSpec) -> int:
        """The pace is no kernel of a network: its one set of weights stays in the innermost cache."""
        asked_for = spec.digest() in self._wanted
        return 1 if spec.digest() == self._pace and not asked_for else copies_for(spec)

    def keep(self, failures: Mapping[str, str | None]) -> None:
        """Leave out the kernels that have a reason.

        Raises
        ------
        MeasureError
            The sentinel is among them.
        """
        for job in self.jobs:
            reason = failures.get(job.spec.digest())
            if reason is None:
                continue
            if job.spec.digest() == self._sentinel:
                raise MeasureError(
                    f"no kernel can be packed for this target: {reason}",
                    hint="check the compiler set-up; the kernel tried is a plain 3x3 convolution",
                )
            for path in (job.path, job.path.with_suffix(".json")):
                path.unlink(missing_ok=True)
            if job.spec.digest() in self._wanted:
                self.unbuilt.append(Unbuilt(**_about(job), copies=job.copies, reason=one_line(reason)))
        self.jobs = [job for job in self.jobs if failures.get(job.spec.digest()) is None]

    def packed(self) -> tuple[PackedKernel, PackedKernel | None, list[PackedKernel]]:
        """The sentinel, the pace, and the kernels that were asked for."""
        found: dict[str, PackedKernel] = {}
        for job in self.jobs:
            digest = job.spec.digest()
            how = take_sidecar(job.path, self._folder, self.expected.get(digest))
            found[digest] = PackedKernel(**_about(job), **how.model_dump())
        wanted = [found[digest] for digest in self._wanted if digest in found]
        return found[self._sentinel], found.get(self._pace), wanted


def _about(job: BuildJob) -> dict[str, str]:
    spec = job.spec
    text = {"digest": spec.digest(), "label": spec.label(), "spec": spec.canonical()}
    return {**text, "choice": choice_label(job.choice)}


def build_kernels(
    kernels: BundleKernels, target: Target, builder: Builder, *, check: bool, progress: Progress
) -> None:
    """Build all; where they can run here, note what they return, and compare it with PyTorch."""
    total = len(kernels.jobs)
    failures: dict[str, str | None] = {}
    for done, (job, failure) in enumerate(builder.build(kernels.jobs), start=1):
        failures[job.spec.digest()] = failure
        progress(f"build {job.spec.label()}", done, total)
    kernels.keep(failures)
    if not can_probe(target):
        return
    failures = {}
    for done, (job, found) in enumerate(probe(kernels.jobs, target), start=1):
        if isinstance(found, str):
            failures[job.spec.digest()] = found
        else:
            kernels.expected[job.spec.digest()] = found
        progress(f"run {job.spec.label()}", done, total)
    kernels.keep(failures)
    if not check:
        return
    checker = CheckPool(target)
    try:
        for done, (job, verdict) in enumerate(checker.check(kernels.jobs), start=1):
            failures[job.spec.digest()] = verdict.complaint
            progress(f"check {job.spec.label()}", done, total)
    finally:
        checker.close()
    kernels.keep(failures)


def take_sidecar(path: Path, folder: Path, expected: Expected | None = None) -> PackedLibrary:
    """What the sidecar of a library says; the manifest says it from now on."""
    sidecar = path.with_suffix(".json")
    data: dict[str, Any] = json.loads(sidecar.read_text())
    sidecar.unlink()
    return PackedLibrary(
        file=path.relative_to(folder).as_posix(),
        inputs=data["inputs"],
        weights=data["weights"],
        copies=data["copies"],
        expected=expected,
    )
