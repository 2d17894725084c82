# cython: freethreading_compatible=True
"""Bars out of trades: the loops. Called by `tapeline.bars`, which checks and allocates; see `reference.py`
for what each function does in plain words.

Every function gives a status (see `tapeline.bars.status`); on a fault `fault[0]` is the index of the trade
and `fault[1]` the row of the bar. Views are contiguous; OUT views are made by the caller.
"""

from libc.math cimport NAN, sqrt
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from *:
    """
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    static int tapeline_has_v3(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")
            && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
    }
    #else
    static int tapeline_has_v3(void) { return 0; }
    #endif
    """
    int tapeline_has_v3() noexcept nogil

ctypedef fused volume_t:
    int32_t
    int64_t
    double

cdef enum:
    OK = 0
    UNSORTED = 1
    OVERFLOW = 2
    NEGATIVE = 3
    OUTSIDE = 4
    NO_ROW = 5

cdef enum:
    HILO = 1
    LAST = 2
    VOLUME = 4
    ALL = 7

cdef enum:
    NORM_NONE = 0
    NORM_LAST_PRICE_PCT = 1
    NORM_ZSCORE_WINDOW = 2
    NORM_MAX_VALUES = 3

# Trades looked at together. Lanes of 8 divide it, so a float sum keeps its lane across blocks.
cdef enum:
    BLOCK = 16

cdef int64_t EXACT = 9007199254740992  # 2**53: every whole number up to here is a float64


cdef struct Bar:
    double open
    double high      # of HILO trades; -inf or +inf below mean none yet
    double low
    double close
    int64_t last     # trades that set open and close
    int64_t n        # trades that count
    int64_t total    # sum of whole volumes
    int64_t bits     # all whole volumes ORed: bounds their sum
    int64_t top      # greatest whole volume
    double lane[8]   # sums of float volumes by ordinal mod 8
    double peak      # greatest float volume


cdef inline void clear(Bar* bar) noexcept nogil:
    cdef int k
    bar.open = NAN
    bar.close = NAN
    bar.high = -1.0 / 0.0
    bar.low = 1.0 / 0.0
    bar.last = 0
    bar.n = 0
    bar.total = 0
    bar.bits = 0
    bar.top = 0
    for k in range(8):
        bar.lane[k] = 0.0
    bar.peak = 0.0


cdef inline void fold_price(const double* price, Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """Highest and lowest of `[first, stop)`, in lanes of 8: the order of a maximum does not matter."""
    cdef double hi[8]
    cdef double lo[8]
    cdef double p
    cdef Py_ssize_t i = first
    cdef int k
    for k in range(8):
        hi[k] = bar.high
        lo[k] = bar.low
    while i + 8 <= stop:
        for k in range(8):
            p = price[i + k]
            hi[k] = p if p > hi[k] else hi[k]
            lo[k] = p if p < lo[k] else lo[k]
        i += 8
    while i < stop:
        p = price[i]
        hi[0] = p if p > hi[0] else hi[0]
        lo[0] = p if p < lo[0] else lo[0]
        i += 1
    for k in range(8):
        if hi[k] > bar.high:
            bar.high = hi[k]
        if lo[k] < bar.low:
            bar.low = lo[k]


cdef inline void fold_volume(const volume_t* volume, Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """Sum and maximum of `[first, stop)`; `bar.n` is the ordinal of the first of them in its bar."""
    cdef Py_ssize_t i = first
    cdef int k
    cdef int turn
    cdef double lane[8]
    cdef double peak[8]
    cdef double v
    cdef uint64_t total = 0
    cdef volume_t bits = 0
    cdef volume_t top = 0
    cdef volume_t w
    if volume_t is double:
        turn = <int> (bar.n & 7)
        for k in range(8):
            lane[k] = bar.lane[(k + turn) & 7]
            peak[k] = bar.peak
        while i + 8 <= stop:
            for k in range(8):
                v = volume[i + k]
                lane[k] += v
                peak[k] = v if v > peak[k] else peak[k]
            i += 8
        k = 0
        while i < stop:
            v = volume[i]
            lane[k] += v
            peak[k] = v if v > peak[k] else peak[k]
            i += 1
            k += 1
        for k in range(8):
            bar.lane[(k + turn) & 7] = lane[k]
            if peak[k] > bar.peak:
                bar.peak = peak[k]
    else:
        for i in range(first, stop):
            w = volume[i]
            total += <uint64_t> w
            bits |= w
            top = w if w > top else top
        bar.total = <int64_t> (<uint64_t> bar.total + total)
        bar.bits |= bits
        if top > bar.top:
            bar.top = top
    bar.n += stop - first


cdef inline void fold_marked(const double* price, const volume_t* volume, const uint8_t* flags,
                             Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """One trade after another, each counting for what its flags say."""
    cdef Py_ssize_t i
    cdef uint8_t mark
    cdef double p
    cdef double v
    for i in range(first, stop):
        mark = flags[i] & ALL
        if mark == 0:
            continue
        p = price[i]
        if mark & HILO:
            if p > bar.high:
                bar.high = p
            if p < bar.low:
                bar.low = p
        if mark & LAST:
            if bar.last == 0:
                bar.open = p
            bar.close = p
            bar.last += 1
        if mark & VOLUME:
            if volume_t is double:
                v = volume[i]
                bar.lane[bar.n & 7] += v
                if v > bar.peak:
                    bar.peak = v
            else:
                bar.total = <int64_t> (<uint64_t> bar.total + <uint64_t> volume[i])
                bar.bits |= volume[i]
                if volume[i] > bar.top:
                    bar.top = volume[i]
        bar.n += 1


cdef inline bint plain(const uint8_t* flags, Py_ssize_t i) noexcept nogil:
    """Whether the BLOCK trades from i all carry flags 7."""
    cdef uint8_t both = ALL
    cdef uint8_t some = 0
    cdef int k
    for k in range(BLOCK):
        both &= flags[i + k]
        some |= flags[i + k]
    return both == ALL and some == ALL


cdef inline void fold(const double* price, const volume_t* volume, const uint8_t* flags,
                      Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """Add the trades of `[first, stop)` to a bar; `flags` may be NULL: all 7."""
    cdef Py_ssize_t i = first
    cdef Py_ssize_t run
    if first >= stop:
        return
    if flags == NULL:
        if bar.last == 0:
            bar.open = price[first]
        bar.close = price[stop - 1]
        bar.last += stop - first
        fold_price(price, first, stop, bar)
        fold_volume(volume, first, stop, bar)
        return
    while i < stop:
        run = i
        while run + BLOCK <= stop and plain(flags, run):
            run += BLOCK
        if run > i:
            if bar.last == 0:
                bar.open = price[i]
            bar.close = price[run - 1]
            bar.last += run - i
            fold_price(price, i, run, bar)
            fold_volume(volume, i, run, bar)
            i = run
        run = i + BLOCK if i + BLOCK < stop else stop
        fold_marked(price, volume, flags, i, run, bar)
        i = run


cdef inline int exceeds(const volume_t* volume, const uint8_t* flags, Py_ssize_t first, Py_ssize_t stop,
                        int64_t* fault) noexcept nogil:
    """The slow look at a bar whose whole volumes may be too great: which trade is at fault, if any."""
    cdef Py_ssize_t i
    cdef int64_t total = 0
    for i in range(first, stop):
        if flags != NULL and not flags[i] & VOLUME:
            continue
        if volume[i] < 0:
            fault[0] = i
            return NEGATIVE
        if <int64_t> volume[i] > EXACT - total:
            fault[0] = i
            return OVERFLOW
        total += <int64_t> volume[i]
    return OK


cdef inline int settle(const volume_t* volume, const uint8_t* flags, Py_ssize_t first, Py_ssize_t stop,
                       Bar* bar, double* carry, bint fill, double* row, int64_t* fault) noexcept nogil:
    """Write a bar's eight columns and hand its close on."""
    cdef double total
    cdef double top
    cdef double o
    cdef double c
    cdef double h
    cdef double l
    cdef int status
    if bar.n == 0:
        o = carry[0] if fill else NAN
        row[0] = o
        row[1] = o
        row[2] = o
        row[3] = o
        row[4] = 0.0
        row[5] = 0.0
        row[6] = 0.0
        row[7] = 0.0
        return OK
    if volume_t is double:
        total = ((bar.lane[0] + bar.lane[4]) + (bar.lane[2] + bar.lane[6])) + (
            (bar.lane[1] + bar.lane[5]) + (bar.lane[3] + bar.lane[7]))
        top = bar.peak
    else:
        # With b bits in use, n volumes add up to less than n * 2**b: only then is a second look needed.
        if bar.bits < 0 or bar.bits > EXACT // bar.n:
            status = exceeds(volume, flags, first, stop, fault)
            if status != OK:
                return status
        total = <double> bar.total
        top = <double> bar.top
    if bar.last > 0:
        o = bar.open
        c = bar.close
        carry[0] = c
    else:
        o = carry[0]
        c = carry[0]
    h = bar.high
    l = bar.low
    if o > h:
        h = o
    if c > h:
        h = c
    if o < l:
        l = o
    if c < l:
        l = c
    if h < l:  # no trade for high and low, and no price ever
        h = NAN
        l = NAN
    row[0] = o
    row[1] = h
    row[2] = l
    row[3] = c
    row[4] = <double> bar.n
    row[5] = total
    row[6] = total / <double> bar.n
    row[7] = top
    return OK


cdef inline Py_ssize_t run_to(const int64_t* ts, Py_ssize_t first, Py_ssize_t n, int64_t end,
                              int64_t* before, bint* sorted) noexcept nogil:
    """The first trade at or after `end`, checking the order of those passed; `before` is the last time seen."""
    cdef Py_ssize_t i = first
    cdef int64_t seen = before[0]
    cdef int64_t steps
    cdef int k
    while i + BLOCK <= n and ts[i + BLOCK - 1] < end:
        steps = ts[i] - seen
        for k in range(1, BLOCK):
            steps |= ts[i + k] - ts[i + k - 1]
        if steps < 0:
            break
        seen = ts[i + BLOCK - 1]
        i += BLOCK
    while i < n:
        if ts[i] < seen:
            sorted[0] = False
            break
        if ts[i] >= end:
            break
        seen = ts[i]
        i += 1
    before[0] = seen
    return i


cdef int time_loop(const int64_t* ts, const double* price, const volume_t* volume, const uint8_t* flags,
                   Py_ssize_t n, int64_t open_ns, int64_t close_ns, int64_t width_ns, double* carry, bint fill,
                   double* out, Py_ssize_t rows, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t row
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop
    cdef int64_t end = open_ns
    cdef int64_t seen = open_ns
    cdef bint sorted = True
    cdef int status
    if n > 0 and ts[0] < open_ns:
        fault[0] = 0
        return OUTSIDE
    for row in range(rows):
        end = close_ns if close_ns - end < width_ns else end + width_ns
        stop = run_to(ts, i, n, end, &seen, &sorted)
        if not sorted:
            fault[0] = stop
            fault[1] = row
            return UNSORTED
        clear(&bar)
        fold(price, volume, flags, i, stop, &bar)
        status = settle(volume, flags, i, stop, &bar, carry, fill, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
        i = stop
    if i < n:
        fault[0] = i
        return OUTSIDE
    return OK


def time_bars(const int64_t[::1] ts, const double[::1] price, const volume_t[::1] volume,
              const uint8_t[::1] flags, int64_t open_ns, int64_t close_ns, int64_t width_ns,
              double[::1] carry, bint fill, double[:, ::1] out, int64_t[::1] fault):
    """Bars `[open + m w, min(open + (m + 1) w, close))` of one segment; IN ts, price, volume, flags (None: all
    7); IN and OUT carry (1,); OUT out (rows, 8), fault (2,)."""
    cdef Py_ssize_t n = ts.shape[0]
    cdef Py_ssize_t rows = out.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef double* cells = &out[0, 0] if rows > 0 else NULL
    cdef int status
    if n == 0:
        with nogil:
            status = time_loop[volume_t](NULL, NULL, NULL, NULL, 0, open_ns, close_ns, width_ns, &carry[0], fill,
                                         cells, rows, &fault[0])
        return status
    with nogil:
        status = time_loop(&ts[0], &price[0], &volume[0], marks, n, open_ns, close_ns, width_ns, &carry[0], fill,
                           cells, rows, &fault[0])
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


cdef Py_ssize_t threshold_loop(const double* price, const volume_t* volume, const uint8_t* flags, Py_ssize_t n,
                               double limit, bint dollar, int64_t* edges, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t row = 0
    cdef double total = 0.0
    for i in range(n):
        if flags == NULL or flags[i] & VOLUME:
            total += price[i] * <double> volume[i] if dollar else <double> volume[i]
            if total >= limit:
                if row < rows:
                    edges[2 * row] = start
                    edges[2 * row + 1] = i + 1
                row += 1
                start = i + 1
                total = 0.0
    for i in range(start, n):
        if flags == NULL or flags[i] & ALL:  # a rest without a trade that counts is no bar
            if row < rows:
                edges[2 * row] = start
                edges[2 * row + 1] = n
            return row + 1
    return row


def threshold_edges(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags, double limit,
                    bint dollar, int64_t[:, ::1] edges):
    """How many bars close when volume (or price times volume) reaches `limit`, the rest being one more; OUT
    edges (rows, 2) as far as it has rows."""
    cdef Py_ssize_t n = price.shape[0]
    cdef Py_ssize_t rows = edges.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef int64_t* pairs = &edges[0, 0] if rows > 0 else NULL
    cdef Py_ssize_t found
    if n == 0:
        return 0
    with nogil:
        found = threshold_loop(&price[0], &volume[0], marks, n, limit, dollar, pairs, rows)
    return found


cdef int span_loop(const double* price, const volume_t* volume, const uint8_t* flags, const int64_t* edges,
                   Py_ssize_t rows, double* carry, double* out, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t row
    cdef int status
    for row in range(rows):
        clear(&bar)
        fold(price, volume, flags, edges[2 * row], edges[2 * row + 1], &bar)
        status = settle(volume, flags, edges[2 * row], edges[2 * row + 1], &bar, carry, True, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
    return OK


def span_bars(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags,
              const int64_t[:, ::1] edges, double[::1] carry, double[:, ::1] out, int64_t[::1] fault):
    """One bar for each pair of `edges`: the trades `[edges[r, 0], edges[r, 1])`; OUT out (rows, 8)."""
    cdef Py_ssize_t n = price.shape[0]
    cdef Py_ssize_t rows = out.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef int status
    if n == 0 or rows == 0:
        return OK
    with nogil:
        status = span_loop(&price[0], &volume[0], marks, &edges[0, 0], rows, &carry[0], &out[0, 0], &fault[0])
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
    cdef const double* rows = grid + 8 * (past - count)  # rows before `missing` are never read
    for c in range(8):
        total[c] = 0.0
        mean[c] = 0.0
    if norm == NORM_LAST_PRICE_PCT:
        base = rows[8 * (count - 1) + 3] if missing < count else NAN
        if base == 0.0:
            base = NAN
        for r in range(missing, count):
            for c in range(4, 8):
                if rows[8 * r + c] > total[c]:
                    total[c] = rows[8 * r + c]
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
                out[8 * r + c] = <float> ((rows[8 * r + c] / base - 1.0) * 100.0)
            for c in range(4, 8):
                out[8 * r + c] = <float> (rows[8 * r + c] / total[c])
        return
    if norm == NORM_ZSCORE_WINDOW:
        for r in range(count):
            for c in range(8):
                x = rows[8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)
                mean[c] += x
        for c in range(8):
            mean[c] /= <double> count
        for r in range(count):
            for c in range(8):
                x = (rows[8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)) - mean[c]
                total[c] += x * x
        for c in range(8):
            total[c] = sqrt(total[c] / <double> count)
            if total[c] == 0.0:
                total[c] = NAN
        for r in range(count):
            for c in range(8):
                x = rows[8 * r + c] if r >= missing else (NAN if c < 4 else 0.0)
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
            out[8 * r + c] = <float> (rows[8 * r + c] / total[c])


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


def has_v3():
    """Whether this processor runs code for x86-64-v3."""
    return bool(tapeline_has_v3())
