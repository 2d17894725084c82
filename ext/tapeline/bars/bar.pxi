"""One bar: its running state, how trades are folded into it and how it is written. Included by `_kernels.pyx`."""

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


cdef extern from "fold.h":
    ctypedef struct Bar "tl_bar":
        double open
        double high
        double low
        double close
        int64_t last
        int64_t n
        int64_t total
        int64_t bits
        int64_t top
        double lane[8]
        double peak

    void tl_ahead(const void* column) noexcept nogil
    bint tl_plain(const uint8_t* flags) noexcept nogil
    Py_ssize_t tl_timed_i32(const int64_t* ts, const double* price, const int32_t* volume, const uint8_t* flags,
                            Py_ssize_t first, Py_ssize_t n, int64_t end, int64_t* seen, Bar* bar) noexcept nogil
    Py_ssize_t tl_timed_i64(const int64_t* ts, const double* price, const int64_t* volume, const uint8_t* flags,
                            Py_ssize_t first, Py_ssize_t n, int64_t end, int64_t* seen, Bar* bar) noexcept nogil
    Py_ssize_t tl_timed_f64(const int64_t* ts, const double* price, const double* volume, const uint8_t* flags,
                            Py_ssize_t first, Py_ssize_t n, int64_t end, int64_t* seen, Bar* bar) noexcept nogil
    Py_ssize_t tl_any_i32(const double* price, const int32_t* volume, const uint8_t* flags, Py_ssize_t first,
                          Py_ssize_t n, Bar* bar) noexcept nogil
    Py_ssize_t tl_any_i64(const double* price, const int64_t* volume, const uint8_t* flags, Py_ssize_t first,
                          Py_ssize_t n, Bar* bar) noexcept nogil
    Py_ssize_t tl_any_f64(const double* price, const double* volume, const uint8_t* flags, Py_ssize_t first,
                          Py_ssize_t n, Bar* bar) noexcept nogil


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


cdef inline void fold_some(const double* price, const volume_t* volume, const uint8_t* flags,
                           Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """Add a few trades, fewer than fill a vector; `flags` may be NULL: all 7."""
    cdef Py_ssize_t i
    cdef double high = bar.high
    cdef double low = bar.low
    cdef double p
    cdef double v
    cdef uint64_t total = 0
    cdef int64_t bits = 0
    cdef int64_t top = bar.top
    if first >= stop:
        return
    if flags != NULL:
        fold_marked(price, volume, flags, first, stop, bar)
        return
    if bar.last == 0:
        bar.open = price[first]
    bar.close = price[stop - 1]
    bar.last += stop - first
    for i in range(first, stop):
        p = price[i]
        high = p if p > high else high
        low = p if p < low else low
        if volume_t is double:
            v = volume[i]
            bar.lane[(bar.n + i - first) & 7] += v
            bar.peak = v if v > bar.peak else bar.peak
        else:
            total += <uint64_t> volume[i]
            bits |= volume[i]
            top = volume[i] if volume[i] > top else top
    bar.high = high
    bar.low = low
    if volume_t is not double:
        bar.total = <int64_t> (<uint64_t> bar.total + total)
        bar.bits |= bits
        bar.top = top
    bar.n += stop - first


cdef inline void fold(const double* price, const volume_t* volume, const uint8_t* flags,
                      Py_ssize_t first, Py_ssize_t stop, Bar* bar) noexcept nogil:
    """Add the trades of `[first, stop)` to a bar; `flags` may be NULL: all 7."""
    cdef Py_ssize_t i = first
    cdef Py_ssize_t run
    while i < stop:
        if volume_t is double:
            i = tl_any_f64(price, volume, flags, i, stop, bar)
        elif volume_t is int64_t:
            i = tl_any_i64(price, volume, flags, i, stop, bar)
        else:
            i = tl_any_i32(price, volume, flags, i, stop, bar)
        run = i + BLOCK if i + BLOCK < stop else stop
        fold_some(price, volume, flags, i, run, bar)
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
        # No volume is above its bits, so n of them add up to no more than n times these; else a second look is needed.
        # The product is rounded, but never down across 2**53; a whole division would take longer than a block.
        if bar.bits < 0 or <double> bar.bits * <double> bar.n >= <double> EXACT:
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
