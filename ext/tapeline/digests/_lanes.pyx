# cython: freethreading_compatible=True
"""SHA-256 of many messages at once: the loops are in `lanes.h`. Called by `tapeline.digests`, which checks."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc


cdef extern from "lanes.h":
    int tl_lanes() noexcept nogil
    void tl_sha256(int lanes, int64_t n, const uint8_t** data, const uint64_t* sizes, const int64_t* order,
                   uint8_t* out) noexcept nogil


def lanes():
    """How many messages this processor works at in one go."""
    return tl_lanes()


def digest(list messages, const int64_t[::1] order, int width, uint8_t[:, ::1] out):
    """IN messages: contiguous bytes; order (k,): which of them, longest first; OUT out (n, 32)."""
    cdef Py_ssize_t n = len(messages)
    cdef Py_ssize_t k = order.shape[0]
    cdef Py_ssize_t i
    cdef const uint8_t[::1] message
    cdef const uint8_t** data = <const uint8_t**> malloc((n + 1) * sizeof(void*))
    cdef uint64_t* sizes = <uint64_t*> malloc((n + 1) * sizeof(uint64_t))
    if data == NULL or sizes == NULL:
        free(data)
        free(sizes)
        raise MemoryError
    try:
        for i in range(n):
            # The caller's list keeps each buffer alive.
            message = messages[i]
            sizes[i] = message.shape[0]
            data[i] = &message[0] if message.shape[0] > 0 else NULL
        if k > 0:
            with nogil:
                tl_sha256(width, k, data, sizes, &order[0], &out[0, 0])
    finally:
        free(data)
        free(sizes)
