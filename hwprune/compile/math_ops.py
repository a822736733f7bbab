"""Scalar expressions of the elementwise operators, free of calls into a math library.

Compiled modules must not need libc, and vectors must stay vectors; so the exponential is a
polynomial with an exponent built from bits, and everything else comes from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hwprune.compile.shapes import number
from hwprune.compile.tvm_api import tirx
from hwprune.latency.kernel import KernelOp

#: Minimax polynomial of exp(r) for |r| <= ln(2)/2, highest power first; relative error 8e-8.
EXP_TERMS = (0.0082976184, 0.041915629, 0.16667577, 0.49998892, 0.99999969, 1.0000001)
#: 1.5 * 2^23: adding it to a small number leaves the nearest integer in the lowest bits.
ROUNDER = 12582912.0
#: Bits from which those of x > 0 are subtracted for a first guess at 1/x, 12 % off at most.
RECIPROCAL_BITS = 0x7EF311C7


def f32(value: float) -> Any:
    return tirx.const(value, "float32")


def let(value: Any, body: Callable[[Any], Any]) -> Any:
    """``body`` of a name for ``value``: an expression that is used twice is a tree twice as large."""
    name = tirx.Var("t", value.ty if hasattr(value, "ty") else value.dtype)
    return tirx.Let(name, value, body(name))


def maximum(a: Any, b: Any) -> Any:
    return tirx.max(a, b)


def clip(x: Any, low: float, high: float) -> Any:
    return tirx.min(tirx.max(x, f32(low)), f32(high))


def exp(x: Any, low: float = -87.0, high: float = 87.0) -> Any:
    """e^x, saturating outside ``low`` and ``high``; relative error below 1e-6."""
    return let(clip(x, low, high), _exp_in_range)


def _exp_in_range(x: Any) -> Any:
    def scaled(shifted: Any) -> Any:
        # By way of its bits, or TVM would cancel adding and subtracting.
        k = tirx.reinterpret("float32", shifted) - f32(ROUNDER)
        # The error of ln(2) in float32 matters little: |k| <= 126, and the product is not
        # rounded where the machine fuses multiply and add.
        # Shifted left, only k is left of ``shifted``: it is added to the exponent.
        return let(
            x - k * f32(0.6931471805599453),
            lambda r: tirx.reinterpret(
                "float32", tirx.reinterpret("int32", _polynomial(r, EXP_TERMS)) + (shifted << 23)
            ),
        )

    return let(tirx.reinterpret("int32", x * f32(1.4426950408889634) + f32(ROUNDER)), scaled)


def _polynomial(x: Any, terms: Sequence[float]) -> Any:
    """Horner's rule, highest power first."""
    p = f32(terms[0])
    for term in terms[1:]:
        p = p * x + f32(term)
    return p


def reciprocal(x: Any) -> Any:
    """1/x for 1e-30 <= x <= 1e36, relative error below 1e-6: cheaper than dividing vectors."""

    def halley(x: Any, guess: Any) -> Any:
        """A step of Halley's method, which cubes the error."""
        return let(f32(1.0) - x * guess, lambda error: guess + guess * (error * error + error))

    def refined(x: Any) -> Any:
        bits = tirx.const(RECIPROCAL_BITS, "int32") - tirx.reinterpret("int32", x)
        return let(
            tirx.reinterpret("float32", bits),
            lambda first: let(halley(x, first), lambda second: halley(x, second)),
        )

    return let(x, refined)


def sigmoid(x: Any) -> Any:
    return reciprocal(f32(1.0) + exp(f32(0.0) - x, -80.0, 80.0))


def tanh(x: Any) -> Any:
    return f32(1.0) - f32(2.0) * reciprocal(exp(x * f32(2.0), -80.0, 80.0) + f32(1.0))


#: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
ERF_TERMS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


def erf(x: Any) -> Any:
    """The error function, absolute error below 2e-7."""

    def positive(a: Any) -> Any:
        decay = exp(f32(0.0) - a * a, -80.0, 0.0)
        series = let(reciprocal(f32(1.0) + a * f32(0.3275911)), lambda t: t * _polynomial(t, ERF_TERMS))
        return f32(1.0) - series * decay

    def signed(x: Any) -> Any:
        value = let(tirx.max(x, f32(0.0) - x), positive)
        return let(value, lambda y: tirx.Select(x < f32(0.0), f32(0.0) - y, y))

    return let(x, signed)


def _gelu(x: Any, op: KernelOp) -> Any:
    def exact(x: Any) -> Any:
        return x * f32(0.5) * (f32(1.0) + erf(x * f32(0.7071067811865476)))

    def approximate(x: Any) -> Any:
        inner = (x + x * x * x * f32(0.044715)) * f32(0.7978845608028654)
        return x * f32(0.5) * (f32(1.0) + tanh(inner))

    return let(x, approximate if dict(op.attributes).get("approximate", "none") == "tanh" else exact)


UNARY: dict[str, Callable[[Any, KernelOp], Any]] = {
    "affine": lambda x, op: x * f32(number(op, "scale")) + f32(number(op, "shift")),
    "relu": lambda x, op: tirx.max(x, f32(0.0)),
    "clamp": lambda x, op: clip(x, number(op, "min"), number(op, "max")),
    "leaky_relu": lambda x, op: let(
        x, lambda y: tirx.Select(y > f32(0.0), y, y * f32(number(op, "slope")))
    ),
    "hardswish": lambda x, op: let(x, lambda y: y * clip(y + f32(3.0), 0.0, 6.0) * f32(1 / 6)),
    "hardsigmoid": lambda x, op: clip(x + f32(3.0), 0.0, 6.0) * f32(1 / 6),
    "silu": lambda x, op: let(x, lambda y: y * sigmoid(y)),
    "sigmoid": lambda x, op: sigmoid(x),
    "gelu": _gelu,
    "tanh": lambda x, op: tanh(x),
}
