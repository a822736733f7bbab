"""Scalar expressions of the elementwise operators, free of calls into a math library.

Compiled modules must not need libc, and vectors must stay vectors; so the exponential is a
polynomial with an exponent built from bits, and everything else comes from it.
"""

from __future__ import annotations

from collections.abc import Callable
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


def maximum(a: Any, b: Any) -> Any:
    return tirx.max(a, b)


def clip(x: Any, low: float, high: float) -> Any:
    return tirx.min(tirx.max(x, f32(low)), f32(high))


def exp(x: Any, low: float = -87.0, high: float = 87.0) -> Any:
    """e^x, saturating outside ``low`` and ``high``; relative error below 1e-6."""
    x = clip(x, low, high)
    shifted = tirx.reinterpret("int32", x * f32(1.4426950408889634) + f32(ROUNDER))
    # By way of its bits, or TVM would cancel adding and subtracting.
    k = tirx.reinterpret("float32", shifted) - f32(ROUNDER)
    # The error of ln(2) in float32 matters little: |k| <= 126, and the product is not rounded
    # where the machine fuses multiply and add.
    r = x - k * f32(0.6931471805599453)
    p = f32(EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        p = p * r + f32(term)
    # Shifted left, only k is left of ``shifted``: it is added to the exponent of p.
    bits = tirx.reinterpret("int32", p) + (shifted << 23)
    return tirx.reinterpret("float32", bits)


def reciprocal(x: Any) -> Any:
    """1/x for 1e-30 <= x <= 1e36, relative error below 1e-6: cheaper than dividing vectors."""
    guess = tirx.reinterpret("float32", tirx.const(RECIPROCAL_BITS, "int32") - tirx.reinterpret("int32", x))
    for _ in range(2):  # Halley's method: each step cubes the error
        error = f32(1.0) - x * guess
        guess = guess + guess * (error * error + error)
    return guess


def sigmoid(x: Any) -> Any:
    return reciprocal(f32(1.0) + exp(f32(0.0) - x, -80.0, 80.0))


def tanh(x: Any) -> Any:
    return f32(1.0) - f32(2.0) * reciprocal(exp(x * f32(2.0), -80.0, 80.0) + f32(1.0))


def erf(x: Any) -> Any:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| < 1.5e-7."""
    a = tirx.max(x, f32(0.0) - x)
    t = reciprocal(f32(1.0) + a * f32(0.3275911))
    p = f32(1.061405429)
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + f32(term)
    y = f32(1.0) - p * t * exp(f32(0.0) - a * a, -80.0, 0.0)
    return tirx.Select(x < f32(0.0), f32(0.0) - y, y)


def _gelu(x: Any, op: KernelOp) -> Any:
    if dict(op.attributes).get("approximate", "none") == "tanh":
        inner = (x + x * x * x * f32(0.044715)) * f32(0.7978845608028654)
        return x * f32(0.5) * (f32(1.0) + tanh(inner))
    return x * f32(0.5) * (f32(1.0) + erf(x * f32(0.7071067811865476)))


UNARY: dict[str, Callable[[Any, KernelOp], Any]] = {
    "relu": lambda x, op: tirx.max(x, f32(0.0)),
    "clamp": lambda x, op: clip(x, number(op, "min"), number(op, "max")),
    "leaky_relu": lambda x, op: tirx.Select(x > f32(0.0), x, x * f32(number(op, "slope"))),
    "hardswish": lambda x, op: x * clip(x + f32(3.0), 0.0, 6.0) * f32(1 / 6),
    "hardsigmoid": lambda x, op: clip(x + f32(3.0), 0.0, 6.0) * f32(1 / 6),
    "silu": lambda x, op: x * sigmoid(x),
    "sigmoid": lambda x, op: sigmoid(x),
    "gelu": _gelu,
    "tanh": lambda x, op: tanh(x),
}
