"""The one exception tree of hwprune.

Every message says what was wrong, with which layer, file or key; ``hint`` says what to do next.
Asserts elsewhere are for our own bugs, never for what a user passed in.
"""

from __future__ import annotations


class HwpruneError(Exception):
    """Base of everything hwprune raises on purpose.

    Parameters
    ----------
    message
        What was wrong, and with which layer, file or key.
    hint
        What the reader can do about it.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  what to do: {self.hint}" if self.hint else self.message


class UsageError(HwpruneError):
    """The call itself was wrong: an unknown option, layer name, criterion or model path."""


class MissingExtraError(HwpruneError):
    """An optional dependency is not installed; the message names the extra."""


class TargetError(HwpruneError):
    """A target description is unknown, malformed, or cannot run on this machine."""


class CaptureError(HwpruneError):
    """The model could not be exported to a graph."""


class DependencyError(HwpruneError):
    """The channel relations of the graph contradict each other, or nothing can be pruned."""


class CriterionError(HwpruneError):
    """An importance criterion lacks the data or the layers that it needs."""


class ArtifactError(HwpruneError):
    """A persisted file is missing, truncated, edited, or of another format version."""


class TableError(HwpruneError):
    """A latency table cannot be used."""


class PipelineMismatchError(TableError):
    """The table was measured through another compile pipeline than the one that would ship."""


class KernelMissError(TableError):
    """A kernel is not in the table; the message names the key and its neighbours."""


class BudgetError(HwpruneError):
    """A latency budget is malformed, unreachable, or already met by the dense model."""


class BudgetMetError(BudgetError):
    """The dense model already meets the budget: there is nothing to prune."""


class PlanError(HwpruneError):
    """A plan does not fit the model or target that it is applied to."""


class SurgeryError(HwpruneError):
    """A cut could not be carried out."""


class VerificationError(SurgeryError):
    """The pruned model does not equal the masked original."""


class RepairError(HwpruneError):
    """Recalibration or fine-tuning could not go on."""


class CompileError(HwpruneError):
    """The model could not be compiled for the target."""


class UnsupportedOperatorError(CompileError):
    """No lowering exists for an operator; the message names the node."""


class MeasureError(HwpruneError):
    """A measurement failed: the worker crashed, hung, or gave wrong values."""


class DeviceLostError(MeasureError):
    """A device cannot be reached, or went away while it was measuring."""


class ReportError(HwpruneError):
    """The report could not be written."""
