"""Taylor importance: what the loss would change by, to first or second order, if a unit were removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Literal, get_args

import torch

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import UsageError
from hwprune.importance.batches import Batch
from hwprune.importance.data import batch_loss
from hwprune.importance.examples import MICRO_BATCH, PerExample, split
from hwprune.importance.gatespace import GateSpace, Vectors, twice_differentiable
from hwprune.importance.modes import in_mode
from hwprune.importance.momentum import Momentum
from hwprune.importance.output_curvature import slope_and_directions
from hwprune.importance.products import NormProducts, WeightProducts
from hwprune.importance.registry import Comparability, Criterion, DataNeed, Loss, Origin, register
from hwprune.importance.silence import reject_silence

Form = Literal["consumers", "gate", "weight", "bn", "full_gradient", "second_order"]
#: Scores of one minibatch.
_OfBatch = Callable[[Batch], Vectors]


@register
class Taylor2019(Criterion):
    """Squared estimate of the loss change when a unit is removed.

    Parameters
    ----------
    form
        Where and how the removal is imagined. With ``z`` the factor on the unit and ``L`` the mean
        loss of a minibatch:

        ``"consumers"``: ``(dL/dz)^2`` with the factor at every layer that reads the unit, which is
        what surgery does. A group that nothing reads is gated.

        ``"gate"``: the same with the factor on the group's last tap, where all its producers are
        normalised and summed (the paper's gates). The two agree where one tensor feeds all consumers
        through ReLU and pooling; in a stage of residual blocks a gate on the last sum does not see
        the blocks before it, and follows the true loss change less well.

        ``"weight"``: ``sum (w * dL/dw)^2`` over the filters that make the unit.

        ``"bn"``: ``(gamma * dL/dgamma + beta * dL/dbeta)^2``, summed over the BatchNorms of the
        group; a group without one is gated, which means the same.

        ``"full_gradient"``: ``sum (d loss_n / dz)^2`` over the examples of the minibatch.

        ``"second_order"``: ``(-g + H/2)^2`` with gradient and diagonal of the Hessian.
    at
        ``"consumers"`` or ``"gate"``: where the factor of the last two forms is.
    curvature
        Of ``"second_order"``. ``"gauss_newton"``: the diagonal of the Gauss-Newton matrix. Where a unit
        enters piecewise linearly and once (ReLU, pooling) it is that of the Hessian; elsewhere it
        leaves out what the second derivative of the outputs adds. ``"hessian"``: the Hessian's own.
    probes
        Of ``"second_order"``: number of random combinations from which the diagonal is estimated, of an
        example's outputs (where there are more outputs than this) or, for ``"hessian"``, of units,
        which is noisier by far. None: exactly, with one pass per output, or one per unit.
    momentum
        None: scores are the mean over minibatches. Otherwise what earlier scores keep
        (0.9 in the paper's code) each time ``every`` minibatches have been averaged.
    every
        See ``momentum``.
    seed
        Of the random signs.

    Notes
    -----
    BatchNorm is in evaluation mode. With a loss that is no mean over examples, ``"full_gradient"``
    means nothing, and ``"second_order"`` should get batches of at most 16 examples and the Hessian.
    """

    name: ClassVar[str] = "taylor2019"
    data_need: ClassVar[DataNeed] = "labelled"
    comparability: ClassVar[Comparability] = "global"
    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"
    formula: ClassVar[str] = (
        "mean over batches of (∂L/∂z)², z a factor on the unit at every layer that reads it"
    )
    origin: ClassVar[Origin] = "authors"
    cost: ClassVar[str] = "one forward and one backward pass a batch"

    def __init__(
        self,
        form: Form = "consumers",
        *,
        at: Literal["consumers", "gate"] = "consumers",
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
        probes: int | None = 16,
        momentum: float | None = None,
        every: int = 30,
        seed: int = 0,
    ) -> None:
        if form not in get_args(Form):
            raise UsageError(f"taylor2019 has no form {form!r}", hint=f"use {' or '.join(get_args(Form))}")
        if at not in ("consumers", "gate"):
            raise UsageError(f"taylor2019 has no place {at!r}", hint="use consumers or gate")
        if curvature not in ("gauss_newton", "hessian"):
            raise UsageError(f"taylor2019 has no curvature {curvature!r}", hint="use gauss_newton or hessian")
        if probes is not None and probes < 1:
            raise UsageError(f"probes is {probes}", hint="use 1 or more, or None for the exact diagonal")
        self.form: Form = form
        self.at: Literal["consumers", "gate"] = at
        self.curvature: Literal["gauss_newton", "hessian"] = curvature
        self.probes, self.momentum, self.every, self.seed = probes, momentum, every, seed
        self._average()

    def score(
        self,
        captured: Captured,
        deps: Dependencies,
        data: Iterable[Batch] | None,
        *,
        loss: Loss | None,
    ) -> dict[str, torch.Tensor]:
        assert data is not None
        average = self._average()
        with in_mode(captured.graph, training=False), torch.enable_grad():
            of_batch = self._prepared(captured, deps, loss)
            for batch in data:
                average.add(of_batch(batch))
        return reject_silence(average.value(), self.name)

    def _average(self) -> Momentum:
        # Without momentum all minibatches are one average.
        return Momentum(self.momentum or 0.0, None if self.momentum is None else self.every)

    def _prepared(self, captured: Captured, deps: Dependencies, loss: Loss | None) -> _OfBatch:
        if self.form in ("weight", "bn"):
            kind = WeightProducts if self.form == "weight" else NormProducts
            products = kind(captured, deps, self.name)
            return lambda batch: products.scores(batch_loss(products.model, batch, loss, criterion=self.name))
        space = GateSpace(captured, deps, "gate" if self.form == "gate" else "consumers")
        if self.form in ("gate", "consumers"):
            return lambda batch: _squared(
                space.gradient(batch_loss(space.model, batch, loss, criterion=self.name))
            )
        space = GateSpace(captured, deps, self.at)
        if self.form == "full_gradient":
            return self._full_gradient(PerExample(space), loss)
        if self.curvature == "hessian":
            return self._second_order(space, loss)
        return self._gauss_newton(PerExample(space), loss)

    def _full_gradient(self, examples: PerExample, loss: Loss | None) -> _OfBatch:
        def sums(batch: Batch) -> list[torch.Tensor]:
            return [batch_loss(examples.space.model, batch, loss, criterion=self.name) * batch.size]

        def of_batch(batch: Batch) -> Vectors:
            total: Vectors = {}
            for part in split(batch, MICRO_BATCH):
                (rows,) = examples.derive(part, sums)
                for name, row in rows.items():
                    term = (row.double() ** 2).sum(0)
                    total[name] = total[name] + term if name in total else term
            return total

        return of_batch

    def _gauss_newton(self, examples: PerExample, loss: Loss | None) -> _OfBatch:
        generator = torch.Generator().manual_seed(self.seed)

        def sums(batch: Batch) -> Iterator[torch.Tensor]:
            return slope_and_directions(
                examples.space.model,
                batch,
                loss,
                probes=self.probes,
                generator=generator,
                criterion=self.name,
            )

        def of_batch(batch: Batch) -> Vectors:
            change: Vectors = {}
            for part in split(batch, MICRO_BATCH):
                for number, rows in enumerate(examples.derive(part, sums)):
                    for name, row in rows.items():
                        wide = row.detach().double()
                        term = -wide.sum(0) if number == 0 else 0.5 * (wide**2).sum(0)
                        change[name] = change[name] + term if name in change else term
            return _squared({name: value / max(batch.size, 1) for name, value in change.items()})

        return of_batch

    def _second_order(self, space: GateSpace, loss: Loss | None) -> _OfBatch:
        generator = torch.Generator().manual_seed(self.seed)

        def of_batch(batch: Batch) -> Vectors:
            change: Vectors = {}
            for part in split(batch, MICRO_BATCH):
                with twice_differentiable():
                    value = batch_loss(space.model, part, loss, criterion=self.name)
                first, second = space.hessian_diagonal(value, probes=self.probes, generator=generator)
                share = part.size / batch.size if batch.size else 1.0
                for name, g in first.items():
                    term = share * (0.5 * second[name].double() - g.double())
                    change[name] = change[name] + term if name in change else term
            return _squared(change)

        return of_batch


def _squared(values: Vectors) -> Vectors:
    return {name: value.double() ** 2 for name, value in values.items()}
