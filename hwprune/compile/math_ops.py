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

LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
#: Taylor coefficients of exp(r) from r^7/7! down to 1; |r| <= ln(2)/2, so the error is below 1e-8.
EXP_TERMS = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)


def f32(value: float) -> Any:
    return tirx.const(value, "float32")


def maximum(a: Any, b: Any) -> Any:
    return tirx.max(a, b)


def clip(x: Any, low: float, high: float) -> Any:
    return tirx.min(tirx.max(x, f32(low)), f32(high))


def exp(x: Any) -> Any:
    """e^x for |x| <= 87, saturating outside; relative error about 1e-7."""
    x = clip(x, -87.0, 87.0)
    # Positive before truncation, so that truncating rounds to nearest; already biased by 127.
    biased = tirx.Cast("int32", x * f32(1.4426950408889634) + f32(127.5))
    k = tirx.Cast("float32", biased) - f32(127.0)
    r = x - k * f32(LN2_HIGH) - k * f32(LN2_LOW)
    p = f32(EXP_TERMS[0])
    for term in EXP_TERMS[1:]:
        p = p * r + f32(term)
    return p * tirx.reinterpret("float32", biased << 23)


def sigmoid(x: Any) -> Any:
    return f32(1.0) / (f32(1.0) + exp(f32(0.0) - x))


def tanh(x: Any) -> Any:
    return f32(1.0) - f32(2.0) / (exp(x * f32(2.0)) + f32(1.0))


def erf(x: Any) -> Any:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| < 1.5e-7."""
    a = tirx.max(x, f32(0.0) - x)
    t = f32(1.0) / (f32(1.0) + a * f32(0.3275911))
    p = f32(1.061405429)
    for term in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + f32(term)
    y = f32(1.0) - p * t * exp(f32(0.0) - a * a)
    return tirx.Select(x < f32(0.0), f32(0.0) - y, y)


def _gelu(x: Any, op: KernelOp) -> Any:
    if dict(op.attributes).get("approximate", "none") == "tanh":
        inner = (x + x * x * x * f32(0.044715)) * f32(0.7978845608028654)
        return x * f32(0.5) * (f32(1.0) + tanh(inner))
    return x * f32(0.5) * (f32(1.0) + erf(x * f32(0.7071067811865476)))


UNARY: dict[str, Callable[[Any, KernelOp], Any]] = {
    "affine": lambda x, op: x * f32(number(op, "scale")) + f32(number(op, "shift")),
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
