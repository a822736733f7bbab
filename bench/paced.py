"""An engine for timing workers: imports nothing heavy."""

from __future__ import annotations

from hwprune.compile.kernel_runner import KernelRunner


class PacedRunner(KernelRunner):
    """A network whose samples have the pace of the core beside them."""

    def paced(self, number: int, repeat: int) -> dict[str, list[float]]:
        """Seconds per call over the pace around the sample, and the paces in seconds."""
        ratios: list[float] = []
        paces = [self.pace()]
        for _ in range(repeat):
            sample = self.time(number, 1)[0]
            paces.append(self.pace())
            ratios.append(2 * sample / (paces[-2] + paces[-1]))
        return {"ratios": ratios, "paces": paces}
