"""What `ln.h` does, in plain NumPy: elementary operations alone, which IEEE 754 fixes to the last bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
"""The high part has 20 zeros at its end: times an exponent it is exact."""
EVEN = (3.999999999940941908e-01, 2.222219843214978396e-01, 1.531383769920937332e-01)
ODD = (6.666666666666735130e-01, 2.857142874366239149e-01, 1.818357216161805012e-01, 1.479819860511658591e-01)
HALF, ONE = 0x3FE6A09E, 0x3FF00000


def reduced(values: Floats) -> tuple[Floats, Floats]:
    """f and k of each value 2^k (1 + f), f from sqrt(2)/2 - 1 to sqrt(2) - 1; values are normal and above 0."""
    bits = values.view(np.uint64)
    high = (bits >> np.uint64(32)) + np.uint64(ONE - HALF)
    k = (high >> np.uint64(20)).astype(np.float64) - 1023.0
    mantissa = ((high & np.uint64(0xFFFFF)) + np.uint64(HALF)) << np.uint64(32) | (bits & np.uint64(0xFFFFFFFF))
    return mantissa.view(np.float64) - 1.0, k


def joined(f: Floats, k: Floats, c: Floats) -> Floats:
    """ln(2^k (1 + f)) + c.

    Notes
    -----
    With s = f / (2 + f), ln(1 + f) = 2s + 2/3 s^3 + 2/5 s^5 + ..., of which a polynomial takes the rest.
    """
    half, s = 0.5 * f * f, f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (EVEN[0] + w * (EVEN[1] + w * EVEN[2]))
    odd = z * (ODD[0] + w * (ODD[1] + w * (ODD[2] + w * ODD[3])))
    return np.asarray(s * (half + (odd + even)) + (k * LN2_LOW + c) - half + f + k * LN2_HIGH, np.float64)


def ln(values: Floats) -> Floats:
    """The natural logarithm of each value."""
    out = np.where(values == 0.0, -np.inf, np.where(values > 0.0, np.inf, np.nan))
    known = (values > 0.0) & np.isfinite(values)
    tiny = values < np.finfo(np.float64).tiny
    f, k = reduced(np.where(tiny, values, 0.0)[known] * 2.0**54 + np.where(tiny, 0.0, values)[known])
    out[known] = joined(f, k - np.where(tiny[known], 54.0, 0.0), np.zeros(len(f)))
    return out


def ln1p(values: Floats) -> Floats:
    """The natural logarithm of 1 + each value."""
    out = np.where(values == -1.0, -np.inf, np.where(values > -1.0, np.inf, np.nan))
    known = (values > -1.0) & np.isfinite(values)
    x = values[known]
    u = 1.0 + x
    f, k = reduced(u)
    c = np.where(k < 54.0, np.where(k >= 2.0, 1.0 - (u - x), x - (u - 1.0)) / u, 0.0)
    near = (x > -0.29289) & (x < 0.41421)
    nothing = np.zeros(len(x))
    found = np.where(near, joined(np.where(near, x, 0.0), nothing, nothing), joined(f, k, c))
    out[known] = np.where(np.abs(x) < 2.0**-53, x, found)
    return out
