# cython: freethreading_compatible=True
"""Bars out of trades: the loops. Called by `tapeline.bars`, which checks and allocates; see `reference.py`
for what each function does in plain words.

Every function gives a status (see `tapeline.bars.status`); on a fault `fault[0]` is the index of the trade
and `fault[1]` the row of the bar. Views are contiguous; OUT views are made by the caller.
"""

from libc.math cimport NAN, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

include "bar.pxi"
include "lookback.pxi"
include "threshold.pxi"


cdef int time_loop(const int64_t* ts, const double* price, const volume_t* volume, const uint8_t* flags,
                   Py_ssize_t n, int64_t open_ns, int64_t close_ns, int64_t width_ns, double* carry, bint fill,
                   double* out, Py_ssize_t rows, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t row
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop
    cdef int64_t end = open_ns
    cdef int64_t seen = open_ns
    cdef Py_ssize_t first
    cdef Py_ssize_t most
    cdef int status
    if n > 0 and ts[0] < open_ns:
        fault[0] = 0
        return OUTSIDE
    for row in range(rows):
        end = close_ns if close_ns - end < width_ns else end + width_ns
        clear(&bar)
        stop = i
        while True:
            if volume_t is double:
                stop = tl_timed_f64(ts, price, volume, flags, stop, n, end, &seen, &bar)
            elif volume_t is int64_t:
                stop = tl_timed_i64(ts, price, volume, flags, stop, n, end, &seen, &bar)
            else:
                stop = tl_timed_i32(ts, price, volume, flags, stop, n, end, &seen, &bar)
            first = stop
            most = first + BLOCK if n - first > BLOCK else n
            while stop < most and ts[stop] < end:
                if ts[stop] < seen:
                    fault[0] = stop
                    fault[1] = row
                    return UNSORTED
                seen = ts[stop]
                stop += 1
            fold_some(price, volume, flags, first, stop, &bar)
            if stop < most or stop == n:
                break
        status = settle(volume, flags, i, stop, &bar, carry, fill, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
        i = stop
    if i < n:
        fault[0] = i
        fault[1] = rows
        return OUTSIDE
    return OK


cdef int segments_loop(const int64_t* ts, const double* price, const volume_t* volume, const uint8_t* flags,
                       const int64_t* segments, const int64_t* edges, Py_ssize_t n, int64_t width_ns, bint fill,
                       double* closes, double* out, int64_t* fault) noexcept nogil:
    cdef Py_ssize_t k
    cdef Py_ssize_t first
    cdef Py_ssize_t row = 0
    cdef Py_ssize_t rows
    cdef int64_t length
    cdef int status
    for k in range(n):
        first = edges[2 * k]
        length = segments[2 * k + 1] - segments[2 * k]
        rows = length // width_ns + (length % width_ns != 0)
        status = time_loop(ts + first, price + first, volume + first, flags + first if flags != NULL else NULL,
                           edges[2 * k + 1] - first, segments[2 * k], segments[2 * k + 1], width_ns, closes + k, fill,
                           out + 8 * row, rows, fault)
        if status != OK:
            fault[0] += first
            fault[1] += row
            return status
        row += rows
    return OK


def time_bars(const int64_t[::1] ts, const double[::1] price, const volume_t[::1] volume,
              const uint8_t[::1] flags, const int64_t[:, ::1] segments, const int64_t[:, ::1] edges, int64_t width_ns,
              bint fill, double[::1] closes, double[:, ::1] out, int64_t[::1] fault):
    """Bars `[open + m w, min(open + (m + 1) w, close))` of each segment, one after another; IN ts, price, volume,
    flags (None: all 7), segments (k, 2): open and close, edges (k, 2): first trade and one past the last; IN and
    OUT closes (k,): the close before a segment, then its own; OUT out (rows, 8), fault (2,)."""
    cdef Py_ssize_t n = ts.shape[0]
    cdef Py_ssize_t k = segments.shape[0]
    cdef const int64_t* times = &ts[0] if n > 0 else NULL
    cdef const double* prices = &price[0] if n > 0 else NULL
    cdef const volume_t* volumes = &volume[0] if n > 0 else NULL
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef double* cells = &out[0, 0] if out.shape[0] > 0 else NULL
    cdef int status
    if k == 0:
        return OK
    with nogil:
        status = segments_loop(times, prices, volumes, marks, &segments[0, 0], &edges[0, 0], k, width_ns, fill,
                               &closes[0], cells, &fault[0])
    return status


cdef int tick_loop(const double* price, const volume_t* volume, const uint8_t* flags, Py_ssize_t n,
                   Py_ssize_t size, Py_ssize_t lead, double* carry, double* out, int64_t* edges,
                   Py_ssize_t rows, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t row
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop
    cdef Py_ssize_t left
    cdef int status
    while lead > 0 and i < n:  # the oldest short group of a backward count
        if flags == NULL or flags[i] & ALL:
            lead -= 1
            if flags == NULL or flags[i] & LAST:
                carry[0] = price[i]
        i += 1
    for row in range(rows):
        if flags == NULL:
            stop = i + size if n - i > size else n
        else:
            left = size
            stop = i
            while stop < n and left > 0:
                if flags[stop] & ALL:
                    left -= 1
                stop += 1
        clear(&bar)
        fold(price, volume, flags, i, stop, &bar)
        edges[2 * row] = i
        edges[2 * row + 1] = stop
        status = settle(volume, flags, i, stop, &bar, carry, True, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
        i = stop
    return OK


def tick_bars(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags, Py_ssize_t size,
              Py_ssize_t lead, double[::1] carry, double[:, ::1] out, int64_t[:, ::1] edges, int64_t[::1] fault):
    """Groups of `size` counting trades after the first `lead`; OUT out (rows, 8), edges (rows, 2): the index
    of the first trade and one past the last."""
    cdef Py_ssize_t n = price.shape[0]
    cdef Py_ssize_t rows = out.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef int status
    if n == 0 or rows == 0:
        return OK
    with nogil:
        status = tick_loop(&price[0], &volume[0], marks, n, size, lead, &carry[0], &out[0, 0], &edges[0, 0], rows,
                           &fault[0])
    return status


def carry_forward(double[:, ::1] out, double carry):
    """Give rows before the first known price the price of an earlier segment; IN and OUT out (rows, 8)."""
    cdef Py_ssize_t row
    with nogil:
        for row in range(out.shape[0]):
            if out[row, 3] == out[row, 3]:
                break
            out[row, 0] = carry
            out[row, 3] = carry
            if not out[row, 1] >= carry:
                out[row, 1] = carry
            if not out[row, 2] <= carry:
                out[row, 2] = carry


cdef inline void put_window(const double* grid, int64_t past, Py_ssize_t count, int norm, const double* scale,
                            float* out) noexcept nogil:
    """One window: the `count` rows before grid row `past`, normalised in float64, cast to float32."""
    cdef Py_ssize_t missing = count - past if past < count else 0
    cdef Py_ssize_t r
    cdef int c
    cdef double base
    cdef double total[8]
    cdef double mean[8]
    cdef double x
    cdef Py_ssize_t at = 8 * (past - count)  # rows before `missing` are never read
    for c in range(8):
        total[c] = 0.0
        mean[c] = 0.0
    if norm == NORM_LAST_PRICE_PCT:
        base = grid[at + 8 * (count - 1) + 3] if missing < count else NAN
        if base == 0.0:
            base = NAN
        for r in range(missing, count):
            for c in range(4, 8):
                if grid[at + 8 * r + c] > total[c]:
                    total[c] = grid[at + 8 * r + c]
        for c in range(4, 8):
            if total[c] == 0.0:
                total[c] = NAN
        for r in range(missing):
            for c in range(4):
                out[8 * r + c] = NAN
            for c in range(4, 8):
                out[8 * r + c] = <float> (0.0 / total[c])
        for r in range(missing, count):
            for c in range(4):
                out[8 * r + c] = <float> ((grid[at + 8 * r + c] / base - 1.0) * 100.0)
            for c in range(4, 8):
                out[8 * r + c] = <float> (grid[at + 8 * r + c] / total[c])
        return
    if norm == NORM_ZSCORE_WINDOW:
        for r in range(count):
            for c in range(8):
                x = grid[at + 8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)
                mean[c] += x
        for c in range(8):
            mean[c] /= <double> count
        for r in range(count):
            for c in range(8):
                x = (grid[at + 8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)) - mean[c]
                total[c] += x * x
        for c in range(8):
            total[c] = sqrt(total[c] / <double> count)
            if total[c] == 0.0:
                total[c] = NAN
        for r in range(count):
            for c in range(8):
                x = grid[at + 8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)
                out[8 * r + c] = <float> ((x - mean[c]) / total[c])
        return
    for c in range(8):
        total[c] = scale[c] if norm == NORM_MAX_VALUES else 1.0
        if total[c] == 0.0:
            total[c] = NAN
    for r in range(missing):
        for c in range(4):
            out[8 * r + c] = NAN
        for c in range(4, 8):
            out[8 * r + c] = <float> (0.0 / total[c])
    for r in range(missing, count):
        for c in range(8):
            out[8 * r + c] = <float> (grid[at + 8 * r + c] / total[c])


def gather(const double[:, ::1] grid, const int64_t[::1] past, Py_ssize_t count, int norm,
           const double[::1] scale, float[:, :, ::1] out, int64_t[::1] fault):
    """Windows of `count` bars that end before grid row `past[k]`; OUT out (n, count, 8) float32."""
    cdef Py_ssize_t k
    cdef Py_ssize_t n = past.shape[0]
    cdef Py_ssize_t height = grid.shape[0]
    cdef const double* cells = &grid[0, 0] if height > 0 else NULL
    cdef int status = OK
    if n == 0 or count == 0:
        return OK
    with nogil:
        for k in range(n):
            if past[k] < 0 or past[k] > height:
                fault[0] = k
                status = NO_ROW
                break
            put_window(cells, past[k], count, norm, &scale[0], &out[k, 0, 0])
    return status


def read_bandwidth(const int64_t[::1] ts, const double[::1] price, const volume_t[::1] volume):
    """Read the columns that bars are cut from and add them up: the limit of any kernel that reads them."""
    cdef Py_ssize_t n = ts.shape[0]
    cdef Py_ssize_t i = 0
    cdef int k
    cdef uint64_t times[8]
    cdef double prices[8]
    cdef volume_t volumes[8]
    cdef const int64_t* t
    cdef const double* p
    cdef const volume_t* v
    cdef double total = 0.0
    if n == 0:
        return 0.0
    t = &ts[0]
    p = &price[0]
    v = &volume[0]
    with nogil:
        for k in range(8):
            times[k] = 0
            prices[k] = 0.0
            volumes[k] = 0
        while i + 8 <= n:
            tl_ahead(t + i)  # as the kernels do: without it the yardstick would be the slower one
            tl_ahead(p + i)
            tl_ahead(v + i)
            for k in range(8):
                times[k] += <uint64_t> t[i + k]
            for k in range(8):
                prices[k] += p[i + k]
            for k in range(8):
                volumes[k] += v[i + k]
            i += 8
        for k in range(8):
            total += <double> times[k] + prices[k] + <double> volumes[k]
    return total


def plain(const uint8_t[::1] flags):
    """Whether every trade counts for everything."""
    cdef Py_ssize_t n = flags.shape[0]
    cdef Py_ssize_t i = 0
    cdef const uint8_t* marks = &flags[0] if n > 0 else NULL
    with nogil:
        while i + BLOCK <= n and tl_plain(marks + i):
            i += BLOCK
        while i < n and marks[i] == ALL:
            i += 1
    return i == n


def has_v3():
    """Whether this processor runs code for x86-64-v3."""
    return bool(tapeline_has_v3())
