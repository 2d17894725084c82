"""Bars looked up at many places: windows of a grid, bars that still run, windows anchored at an index.
Included by `_kernels.pyx`."""

from libc.string cimport memcpy

ctypedef fused real_t:
    float
    double

# Trades whose highest, lowest, sum and greatest volume are kept for anchored windows.
cdef enum:
    SPAN = 64


cdef inline void put_nothing(real_t* row) noexcept nogil:
    """A row before the tape begins or after it ends."""
    cdef int c
    for c in range(4):
        row[c] = NAN
    for c in range(4, 8):
        row[c] = 0.0


cdef inline bint lies_before(int64_t one, int64_t value, bint right) noexcept nogil:
    return one < value or (right and one == value)


def ranks(const int64_t[::1] ordered, const int64_t[::1] values, bint right, int64_t[::1] out):
    """How many of `ordered` lie before each value, or at it too if `right`; OUT out (n).

    Each search begins where the last one ended: values that rise with their index cost a step or two each."""
    cdef Py_ssize_t n = values.shape[0]
    cdef Py_ssize_t m = ordered.shape[0]
    cdef Py_ssize_t k
    cdef Py_ssize_t low = 0
    cdef Py_ssize_t high
    cdef Py_ssize_t step
    cdef Py_ssize_t middle
    cdef int64_t value
    with nogil:
        for k in range(n):
            value = values[k]
            if low > 0 and not lies_before(ordered[low - 1], value, right):
                high = low - 1
                low = 0
            else:
                step = 1
                while low + step <= m and lies_before(ordered[low + step - 1], value, right):
                    low += step
                    step *= 2
                high = low + step - 1 if low + step - 1 < m else m
            while low < high:
                middle = (low + high) // 2
                if lies_before(ordered[middle], value, right):
                    low = middle + 1
                else:
                    high = middle
            out[k] = low
    return OK


def lookback(const double[:, ::1] grid, const int64_t[::1] first, Py_ssize_t count, real_t[:, :, ::1] out,
             int64_t[::1] fault):
    """Rows `[first[k], first[k] + count)` of a grid, from -count to its height; OUT out (n, count, 8)."""
    cdef Py_ssize_t n = first.shape[0]
    cdef Py_ssize_t height = grid.shape[0]
    cdef const double* cells = &grid[0, 0] if height > 0 else NULL
    cdef real_t* to
    cdef Py_ssize_t k
    cdef Py_ssize_t r
    cdef Py_ssize_t low
    cdef Py_ssize_t high
    cdef Py_ssize_t c
    cdef int status = OK
    if n == 0 or count == 0:
        return OK
    with nogil:
        for k in range(n):
            if first[k] < -count or first[k] > height:
                fault[0] = k
                status = NO_ROW
                break
            to = &out[k, 0, 0]
            low = -first[k] if first[k] < 0 else 0
            high = height - first[k] if height - first[k] < count else count
            for r in range(low):
                put_nothing(to + 8 * r)
            if high > low:
                if real_t is double:
                    memcpy(to + 8 * low, cells + 8 * (first[k] + low), 64 * (high - low))
                else:
                    for c in range(8 * low, 8 * high):
                        to[c] = <real_t> cells[8 * first[k] + c]
            for r in range(high if high > low else low, count):
                put_nothing(to + 8 * r)
    return status


cdef int running_loop(const double* price, const volume_t* volume, const uint8_t* flags, const int64_t* edges,
                      Py_ssize_t rows, const double* carry, bint fill, double* out, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t row
    cdef int64_t first = -1
    cdef int64_t stop = -1
    cdef double close
    cdef int status
    for row in range(rows):
        if edges[2 * row] < 0:
            put_nothing(out + 8 * row)
            continue
        if edges[2 * row] != first or edges[2 * row + 1] < stop:
            clear(&bar)
            first = edges[2 * row]
            stop = first
        fold(price, volume, flags, stop, edges[2 * row + 1], &bar)
        stop = edges[2 * row + 1]
        close = carry[row]
        status = settle(volume, flags, first, stop, &bar, &close, fill, out + 8 * row, fault)
        if status != OK:
            fault[1] = row
            return status
    return OK


def running_bars(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags,
                 const int64_t[:, ::1] edges, const double[::1] carry, bint fill, double[:, ::1] out,
                 int64_t[::1] fault):
    """The bar of each pair of `edges` by itself, `carry[r]` being the close before it; a pair that begins with
    a negative number is missing. Pairs that begin alike and grow are walked once; OUT out (rows, 8)."""
    cdef Py_ssize_t rows = out.shape[0]
    cdef Py_ssize_t n = price.shape[0]
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef const double* prices = &price[0] if n > 0 else NULL
    cdef const volume_t* volumes = &volume[0] if n > 0 else NULL
    cdef int status
    if rows == 0:
        return OK
    with nogil:
        status = running_loop(prices, volumes, marks, &edges[0, 0], rows, &carry[0], fill, &out[0, 0], &fault[0])
    return status


def blocks(const double[::1] price, const volume_t[::1] volume, const uint8_t[::1] flags, double[:, ::1] range_,
           int64_t[:, ::1] whole):
    """What is kept of every full block of 64 trades; OUT range_ (blocks, 2): lowest, highest; whole (blocks, 4):
    sum, bits and greatest of whole volumes, and whether all flags are 7."""
    cdef Py_ssize_t j
    cdef Py_ssize_t i
    cdef Py_ssize_t n = range_.shape[0]
    cdef Bar bar
    cdef bint all_marks
    if n == 0:
        return OK
    with nogil:
        for j in range(n):
            clear(&bar)
            all_marks = True
            if flags is not None:
                i = SPAN * j
                while all_marks and i < SPAN * j + SPAN:
                    all_marks = tl_plain(&flags[i])
                    i += BLOCK
            fold_price(&price[0], SPAN * j, SPAN * j + SPAN, &bar)
            fold_volume(&volume[0], SPAN * j, SPAN * j + SPAN, &bar)
            range_[j, 0] = bar.low
            range_[j, 1] = bar.high
            whole[j, 0] = bar.total
            whole[j, 1] = bar.bits
            whole[j, 2] = bar.top
            whole[j, 3] = all_marks
    return OK


cdef inline void fold_blocks(const double* price, const volume_t* volume, const uint8_t* flags,
                             const double* range_, const int64_t* whole, Py_ssize_t first, Py_ssize_t stop,
                             Bar* bar) noexcept nogil:
    """As `fold`, taking whole blocks at once."""
    cdef Py_ssize_t low = (first + SPAN - 1) // SPAN
    cdef Py_ssize_t high = stop // SPAN
    cdef Py_ssize_t j = low
    cdef Py_ssize_t run
    cdef double hi
    cdef double lo
    cdef uint64_t total
    cdef int64_t bits
    cdef int64_t top
    if high <= low:
        fold(price, volume, flags, first, stop, bar)
        return
    fold(price, volume, flags, first, SPAN * low, bar)
    while j < high:
        if not whole[4 * j + 3]:
            fold_marked(price, volume, flags, SPAN * j, SPAN * j + SPAN, bar)
            j += 1
            continue
        run = j
        hi = bar.high
        lo = bar.low
        total = 0
        bits = 0
        top = 0
        while run < high and whole[4 * run + 3]:
            lo = range_[2 * run] if range_[2 * run] < lo else lo
            hi = range_[2 * run + 1] if range_[2 * run + 1] > hi else hi
            total += <uint64_t> whole[4 * run]
            bits |= whole[4 * run + 1]
            top = whole[4 * run + 2] if whole[4 * run + 2] > top else top
            run += 1
        if bar.last == 0:
            bar.open = price[SPAN * j]
        bar.close = price[SPAN * run - 1]
        bar.last += SPAN * (run - j)
        bar.high = hi
        bar.low = lo
        if volume_t is double:
            fold_volume(volume, SPAN * j, SPAN * run, bar)  # a float sum keeps its order
        else:
            bar.total = <int64_t> (<uint64_t> bar.total + total)
            bar.bits |= bits
            bar.top = top if top > bar.top else bar.top
            bar.n += SPAN * (run - j)
        j = run
    fold(price, volume, flags, SPAN * high, stop, bar)


cdef inline Py_ssize_t at_or_after(const int64_t* clock, const int64_t* coarse, Py_ssize_t n, Py_ssize_t from_,
                                   int64_t wanted) noexcept nogil:
    """The first trade from `from_` on whose time is `wanted` or later; `coarse` holds every 64th time."""
    cdef Py_ssize_t blocks = n // SPAN
    cdef Py_ssize_t low = from_ // SPAN  # the time at the start of block `low` is before `wanted`, or it is the first
    cdef Py_ssize_t step = 1
    cdef Py_ssize_t high
    cdef Py_ssize_t middle
    cdef Py_ssize_t i
    cdef Py_ssize_t passed = 0
    cdef int k
    while low + step < blocks and coarse[low + step] < wanted:
        low += step
        step *= 2
    high = low + step if low + step < blocks else blocks
    while high - low > 1:
        middle = (low + high) // 2
        if coarse[middle] < wanted:
            low = middle
        else:
            high = middle
    i = SPAN * low
    if i + SPAN <= n:
        for k in range(SPAN):
            passed += clock[i + k] < wanted
        i += passed
        if passed < SPAN:
            return i
    while i < n and clock[i] < wanted:
        i += 1
    return i


cdef int anchored_loop(const int64_t* clock, const int64_t* coarse, const double* price, const volume_t* volume,
                       const uint8_t* flags, const int64_t* before, const double* range_, const int64_t* whole,
                       Py_ssize_t n, const int64_t* at, const int64_t* when, const int64_t* slot, Py_ssize_t places,
                       Py_ssize_t count, int64_t width, int64_t total, bint future, bint fill, int64_t* edge,
                       double* out, int64_t* fault) noexcept nogil:
    cdef Bar bar
    cdef Py_ssize_t k
    cdef Py_ssize_t x
    cdef Py_ssize_t a
    cdef int64_t base
    cdef double carry
    cdef double* row
    cdef int status
    for x in range(count + 1):
        edge[x] = 0
    for k in range(places):
        base = when[k] if future else when[k] - count * width
        for x in range(count + 1):
            edge[x] = at_or_after(clock, coarse, n, edge[x], base + x * width)
        for x in range(count):
            row = out + 8 * (slot[k] * count + x)
            if base + x * width < 0 or base + (x + 1) * width > total:
                put_nothing(row)
                continue
            a = edge[x]
            if future and a < at[k]:  # equal times before the index are past
                a = at[k] if at[k] < edge[x + 1] else edge[x + 1]
            clear(&bar)
            fold_blocks(price, volume, flags, range_, whole, a, edge[x + 1], &bar)
            carry = NAN
            if a > 0 and before == NULL:
                carry = price[a - 1]
            elif a > 0 and before[a - 1] >= 0:
                carry = price[before[a - 1]]
            status = settle(volume, flags, a, edge[x + 1], &bar, &carry, fill, row, fault)
            if status != OK:
                fault[1] = x
                return status
    return OK


def anchored(const int64_t[::1] clock, const int64_t[::1] coarse, const double[::1] price,
             const volume_t[::1] volume, const uint8_t[::1] flags, const int64_t[::1] before,
             const double[:, ::1] range_, const int64_t[:, ::1] whole, const int64_t[::1] at,
             const int64_t[::1] when, const int64_t[::1] slot, int64_t width, int64_t total, bint future, bint fill,
             int64_t[::1] edge, double[:, :, ::1] out, int64_t[::1] fault):
    """Windows of bars that end, or with `future` begin, at the elapsed trading times `when`, which do not
    decrease; window k goes to `out[slot[k]]`.

    IN clock: elapsed trading time of each trade; coarse: every 64th of them; before: the last trade up to each
    that set a close, -1 for none (None: each did); range_, whole: as `blocks` leaves them; at: the index of
    which only the trades from it on are future; total: trading time in all. OUT out (n, count, 8); edge
    (count + 1,) is room to work in."""
    cdef Py_ssize_t n = clock.shape[0]
    cdef Py_ssize_t places = at.shape[0]
    cdef Py_ssize_t count = out.shape[1]
    cdef const int64_t* clocks = &clock[0] if n > 0 else NULL
    cdef const int64_t* coarses = &coarse[0] if coarse.shape[0] > 0 else NULL
    cdef const double* prices = &price[0] if n > 0 else NULL
    cdef const volume_t* volumes = &volume[0] if n > 0 else NULL
    cdef const uint8_t* marks = &flags[0] if flags is not None and n > 0 else NULL
    cdef const int64_t* lasts = &before[0] if before is not None and n > 0 else NULL
    cdef const double* ranges = &range_[0, 0] if range_.shape[0] > 0 else NULL
    cdef const int64_t* wholes = &whole[0, 0] if whole.shape[0] > 0 else NULL
    cdef int status
    if places == 0 or count == 0:
        return OK
    with nogil:
        status = anchored_loop(clocks, coarses, prices, volumes, marks, lasts, ranges, wholes, n, &at[0], &when[0],
                               &slot[0], places, count, width, total, future, fill, &edge[0], &out[0, 0, 0],
                               &fault[0])
    return status
