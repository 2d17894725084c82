# cython: freethreading_compatible=True
"""Loops over `ln.h`. Called by `tapeline.logarithms`, which checks and allocates; `reference.py` says the same in
plain NumPy."""

from libc.stdint cimport int64_t

cdef extern from "ln.h" nogil:
    void ln_all(int64_t n, const double* values, double* out)
    double ln1p_one(double x)


def ln(const double[::1] values, double[::1] out):
    """The natural logarithm of each value; OUT out (n,)."""
    if values.shape[0]:
        with nogil:
            ln_all(values.shape[0], &values[0], &out[0])


def ln1p(const double[::1] values, double[::1] out):
    """The natural logarithm of 1 plus each value; OUT out (n,)."""
    cdef Py_ssize_t i
    with nogil:
        for i in range(values.shape[0]):
            out[i] = ln1p_one(values[i])
