"""From a few measured losses of a group to a curve over all of its widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from hwprune.errors import CriterionError

#: Share of the worst change below which changes are all alike: what the interpolation takes 0 for.
SMALL = 2e-3
#: A width at which the loss is infinite counts as so many times the worst finite one.
WORSE_THAN_ALL = 2.0


def probe_widths(widths: Sequence[int], points: int) -> tuple[int, ...]:
    """The widths of a domain at which to measure: the least, and others evenly between it and the full one.

    The full width is not among them, for nothing is lost there.
    """
    rest = list(widths[:-1])
    if len(rest) <= points:
        return tuple(rest)
    places = np.rint(np.linspace(0, len(rest), points, endpoint=False)).astype(int)
    return tuple(rest[i] for i in dict.fromkeys(places.tolist()))


def loss_curve(measured: Mapping[int, float], widths: Sequence[int]) -> tuple[float, ...]:
    """Change of the loss at every width of a domain, never rising with the width.

    Held-out losses are noisy, and a little less width sometimes does good. A solver would read more
    into that than there is, so the nearest sequence that does not rise with the width (least squares)
    takes the place of what was measured, nothing is better than the full width, and between
    measured widths the logarithm of the change is interpolated without overshoot (Fritsch and Carlson
    1980): losses fall by a factor with every width rather than by an amount.

    Parameters
    ----------
    measured
        Loss minus that of the dense model, by width. That of the full width is 0 whatever is given.
    widths
        The domain, ascending, the full width last.

    Returns
    -------
    tuple
        One change per width, not negative, the last one 0.

    Raises
    ------
    CriterionError
        A change is NaN, or a measured width does not lie within the domain.
    """
    full = widths[-1]
    known = {width: change for width, change in measured.items() if width != full}
    if any(np.isnan(change) for change in known.values()):
        raise CriterionError("a measured loss is NaN", hint="look for NaN in the held-out data")
    outside = [width for width in known if not widths[0] <= width < full]
    if outside:
        raise CriterionError(f"a loss was measured at width {outside[0]}, outside of {widths[0]}..{full}")
    places = sorted(known)
    changes = np.array([known[width] for width in places], np.float64)
    finite = changes[np.isfinite(changes)]
    worst = WORSE_THAN_ALL * max(float(finite.max(initial=0.0)), 1.0)
    changes = np.where(np.isfinite(changes), changes, worst)
    if not places:
        return (0.0,) * len(widths)
    # Clipping the regression without bounds gives the one with the bound.
    falling = np.maximum(isotonic_regression(changes, increasing=False).x, 0.0)
    # Below the least measured width nothing is known: the curve goes on as it stands there.
    at = np.maximum(np.array(widths, np.float64), places[0])
    small = SMALL * float(falling[0])
    if small == 0.0:
        return (0.0,) * len(widths)
    curve = np.exp(PchipInterpolator([*places, full], np.log([*(falling + small), small]))(at)) - small
    # Rounding must not leave a trace of loss at the full width: roots would magnify it.
    curve[-1] = 0.0
    return tuple(float(max(0.0, value)) for value in np.minimum.accumulate(curve))
