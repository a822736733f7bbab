"""Sums over rows, from which any least-squares problem on them is solved without the rows."""

from __future__ import annotations

import torch

from hwprune.errors import CriterionError
from hwprune.importance.rows import Rows

#: Rows multiplied at once: what lies beside the sums stays small.
_CHUNK = 2048


class Gram:
    """Streaming sums of a layer's rows, in double precision, per group of its channels.

    Products of a few rows are taken in the precision of the rows and added up in double precision.

    Attributes
    ----------
    count
        Rows seen.
    xx, xy
        ``X'X [groups, D, D]`` and ``X'Y [groups, D, O]``, with ``D = C_in/groups * k*k`` and
        ``O = C_out/groups``.
    yy
        Squares of the outputs ``[groups, O]``: the diagonal of ``Y'Y``.
    sum_x, sum_y
        ``[groups, D]`` and ``[groups, O]``.
    """

    def __init__(self) -> None:
        self.count = 0
        self.xx = self.xy = self.yy = self.sum_x = self.sum_y = torch.zeros(0, dtype=torch.float64)

    def add(self, rows: Rows) -> None:
        """Take in rows ``x [n, groups, D]``, ``y [n, groups, O]``."""
        if self.count == 0:
            _, groups, columns = rows.x.shape
            outputs = rows.y.shape[2]
            like = torch.zeros(0, dtype=torch.float64, device=rows.x.device)
            self.xx = like.new_zeros(groups, columns, columns)
            self.xy = like.new_zeros(groups, columns, outputs)
            self.yy = like.new_zeros(groups, outputs)
            self.sum_x = like.new_zeros(groups, columns)
            self.sum_y = like.new_zeros(groups, outputs)
        for start in range(0, len(rows), _CHUNK):
            x = rows.x[start : start + _CHUNK].transpose(0, 1)
            y = rows.y[start : start + _CHUNK].transpose(0, 1)
            self.xx += x.transpose(1, 2) @ x
            self.xy += x.transpose(1, 2) @ y
            self.yy += y.double().square().sum(1)
            self.sum_x += x.double().sum(1)
            self.sum_y += y.double().sum(1)
        self.count += len(rows)

    def centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``X'X``, ``X'Y`` and the squares of ``Y`` about the means: what an intercept leaves.

        Raises
        ------
        CriterionError
            No rows were seen.
        """
        if self.count == 0:
            raise CriterionError("no rows to take sums of", hint="pass data with one example or more")
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        xx = self.xx - self.sum_x[:, :, None] * mean_x[:, None, :]
        xy = self.xy - self.sum_x[:, :, None] * mean_y[:, None, :]
        return xx, xy, (self.yy - self.sum_y * mean_y).clamp_min(0.0)


def contribution_gram(
    xx: torch.Tensor, xy: torch.Tensor, weight: torch.Tensor, kernel: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of what input channels contribute to a layer's outputs: ``Z'Z`` and ``Z'y``.

    Channel ``i`` contributes ``z_i = X_i w_i`` to an output; rows of ``Z`` are all positions and all
    outputs. Nothing but the sums of the patches is needed (He, Zhang and Sun, ICCV 2017, in Gram
    form).

    Parameters
    ----------
    xx, xy
        ``[groups, D, D]`` and ``[groups, D, O]`` from a :class:`Gram`, centred or not.
    weight
        Of the layer, ``[C_out, C_in/groups, ...]``.
    kernel
        Positions of its filter.

    Returns
    -------
    tuple
        Per position of the weight's second dimension (summed over groups, which are cut at the
        same position): ``[C_in/groups, C_in/groups]`` and ``[C_in/groups]``, float64.
    """
    groups, columns, outputs = xy.shape
    flat = weight.detach().double().reshape(groups, outputs, columns).to(xx.device)
    channels = columns // kernel
    products = xx * (flat.transpose(1, 2) @ flat)
    zz = products.reshape(groups, channels, kernel, channels, kernel).sum((0, 2, 4))
    zy = (xy * flat.transpose(1, 2)).reshape(groups, channels, kernel, outputs).sum((0, 2, 3))
    return zz, zy
