"""Bars that close when volume, or price times volume, reaches a limit. Included by `_kernels.pyx`."""


cdef extern from "reach.h":
    enum:
        TL_ENDED
        TL_REACHED
        TL_UNSURE
    Py_ssize_t tl_volume_i32(const double* price, const int32_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil
    Py_ssize_t tl_volume_i64(const double* price, const int64_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil
    Py_ssize_t tl_volume_f64(const double* price, const double* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil
    Py_ssize_t tl_dollar_i32(const double* price, const int32_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil
    Py_ssize_t tl_dollar_i64(const double* price, const int64_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil
    Py_ssize_t tl_dollar_f64(const double* price, const double* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, Bar* bar, int* state) noexcept nogil


cdef inline Py_ssize_t chain(const double* price, const volume_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, bint dollar, bint* reached) noexcept nogil:
    """One past the trade with which a bar that starts at `first` reaches `limit`, or n: the sum as it is meant."""
    cdef Py_ssize_t i
    cdef double total = 0.0
    reached[0] = False
    for i in range(first, n):
        if flags == NULL or flags[i] & VOLUME:
            if dollar:
                total += price[i] * <double> volume[i]
            else:
                total += <double> volume[i]
            if total >= limit:
                reached[0] = True
                return i + 1
    return n


cdef inline Py_ssize_t reach(const double* price, const volume_t* volume, const uint8_t* flags, Py_ssize_t first,
                             Py_ssize_t n, double limit, bint dollar, bint* reached, Bar* bar) noexcept nogil:
    """As `chain`, and the trades are added to the bar."""
    cdef Py_ssize_t stop
    cdef int state = TL_UNSURE
    clear(bar)
    if volume_t is double:
        stop = (tl_dollar_f64 if dollar else tl_volume_f64)(price, volume, flags, first, n, limit, bar, &state)
    elif volume_t is int64_t:
        stop = (tl_dollar_i64 if dollar else tl_volume_i64)(price, volume, flags, first, n, limit, bar, &state)
    else:
        stop = (tl_dollar_i32 if dollar else tl_volume_i32)(price, volume, flags, first, n, limit, bar, &state)
    if state != TL_UNSURE:
        reached[0] = state == TL_REACHED
        return stop
    clear(bar)
    stop = chain(price, volume, flags, first, n, limit, dollar, reached)
    fold(price, volume, flags, first, stop, bar)
    return stop


cdef int threshold_loop(const double* price, const volume_t* volume, const uint8_t* flags, Py_ssize_t n, double limit,
                        bint dollar, Py_ssize_t first, Py_ssize_t until, double* carry, double* out, int64_t* edges,
                        Py_ssize_t rows, int64_t* found, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t i = first
    cdef Py_ssize_t stop
    cdef Py_ssize_t row = 0
    cdef bint reached = True
    cdef int status
    while i < n and i < until and row < rows:
        stop = reach(price, volume, flags, i, n, limit, dollar, &reached, &bar)
        if not reached and bar.n == 0:
            reached = True
            break  # a rest without a trade that counts is no bar
        edges[2 * row] = i
        edges[2 * row + 1] = stop
        status = settle(volume, flags, i, stop, &bar, carry, True, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
        i = stop
        row += 1
    found[0] = row
    found[1] = i
    found[2] = reached
    return OK


def threshold_bars(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags, double limit,
                   bint dollar, Py_ssize_t first, Py_ssize_t until, double[::1] carry, double[:, ::1] out,
                   int64_t[:, ::1] edges, int64_t[::1] found, int64_t[::1] fault):
    """The bars that begin with trade `first` and then one after another, as far as they begin before `until` and
    there are rows; a rest that does not reach `limit` is one more. OUT out (rows, 8), edges (rows, 2), found (3,):
    how many bars, the trade after them, and whether the last one reached the limit."""
    cdef Py_ssize_t n = price.shape[0]
    cdef Py_ssize_t rows = out.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef int status
    found[0] = 0
    found[1] = first
    found[2] = True
    if n == 0 or rows == 0:
        return OK
    with nogil:
        status = threshold_loop(&price[0], &volume[0], marks, n, limit, dollar, first, until, &carry[0], &out[0, 0],
                                &edges[0, 0], rows, &found[0], &fault[0])
    return status


def threshold_ahead(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags,
                    const int64_t[:, ::1] spans, double limit, bint dollar, int64_t[:, :, ::1] edges):
    """The first bars that close on `limit` in each of `spans`, the rest of a span being one more; OUT edges
    (n, count, 3): first trade, one past the last, and 1 where the limit was reached; -1 where a span has no more."""
    cdef Py_ssize_t n = spans.shape[0]
    cdef Py_ssize_t count = edges.shape[1]
    cdef Py_ssize_t k
    cdef Py_ssize_t row
    cdef Py_ssize_t i
    cdef Py_ssize_t start
    cdef double total
    if n == 0 or count == 0:
        return OK
    with nogil:
        for k in range(n):
            start = spans[k, 0]
            row = 0
            total = 0.0
            i = start
            while i < spans[k, 1] and row < count:
                if flags is None or flags[i] & VOLUME:
                    if dollar:
                        total += price[i] * <double> volume[i]
                    else:
                        total += <double> volume[i]
                    if total >= limit:
                        edges[k, row, 0] = start
                        edges[k, row, 1] = i + 1
                        edges[k, row, 2] = 1
                        row += 1
                        start = i + 1
                        total = 0.0
                i += 1
            if row < count and start < spans[k, 1]:
                edges[k, row, 0] = start
                edges[k, row, 1] = spans[k, 1]
                edges[k, row, 2] = 0
                row += 1
            while row < count:
                edges[k, row, 0] = -1
                edges[k, row, 1] = -1
                edges[k, row, 2] = -1
                row += 1
    return OK
