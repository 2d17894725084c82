"""Natural logarithms that are the same to the bit on every machine.

NumPy's and the C library's differ in the last bit from one processor to the next, since each takes the
instructions that it finds. An asset is the same bytes wherever it is built: its formulas take these.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tapeline.logarithms import _ln

Floats = NDArray[np.float64]


def ln(values: Floats) -> Floats:
    """The natural logarithm of each value: float64, of the values' shape; -inf for 0, NaN below it.

    Notes
    -----
    fdlibm's method, within 1 unit in the last place, in one order of operations.

    Examples
    --------
    >>> ln(np.array([1.0, 2.718281828459045, 0.0])).tolist()
    [0.0, 1.0, -inf]
    """
    plain = np.ascontiguousarray(values, np.float64)
    out = np.empty(plain.shape)
    _ln.ln(plain.reshape(-1), out.reshape(-1))
    return out


def ln1p(values: Floats) -> Floats:
    """The natural logarithm of 1 + each value, exact for small ones too: float64, of the values' shape.

    Examples
    --------
    >>> ln1p(np.array([0.0, 1e-20, -1.0])).tolist()
    [0.0, 1e-20, -inf]
    """
    plain = np.ascontiguousarray(values, np.float64)
    out = np.empty(plain.shape)
    _ln.ln1p(plain.reshape(-1), out.reshape(-1))
    return out
