# cython: freethreading_compatible=True
"""Loops of the asset build over rows of samples and over bars. Called by `tapeline.measures`, which checks and
allocates; see `reference.py` for what each of them does in plain words."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint32_t, uint64_t

ctypedef fused volume_t:
    int64_t
    double


cdef inline uint64_t stirred(uint64_t x) noexcept nogil:
    """SplitMix64, by Steele, Lea and Flood (2014): a well mixed number for each number."""
    x += <uint64_t> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <uint64_t> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t> 0x94D049BB133111EB
    return x ^ (x >> 31)


def disturb(const double[::1] price, const volume_t[::1] volume, uint64_t seed, double scale,
            double[::1] out_price, volume_t[::1] out_volume):
    """Every price and volume times 1 plus noise; OUT out_price, out_volume (n,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t n = price.shape[0]
    cdef uint64_t x
    cdef double a
    cdef double b
    with nogil:
        for i in range(n):
            x = stirred(seed + <uint64_t> i)
            # Of two numbers from 0 to 1, their sum less 1: from -1 to 1, and never 0.
            a = <double> <int64_t> (2 * ((x & 0xFFFF) + ((x >> 16) & 0xFFFF)) + 1) * (0.5 / 65536.0) - 1.0
            b = <double> <int64_t> (2 * (((x >> 32) & 0xFFFF) + (x >> 48)) + 1) * (0.5 / 65536.0) - 1.0
            out_price[i] = price[i] * (1.0 + scale * a)
            if volume_t is double:
                out_volume[i] = volume[i] * (1.0 + scale * b)
            else:
                # Volumes are not negative: cutting off the rest after a half was added is rounding.
                out_volume[i] = <int64_t> (<double> volume[i] * (1.0 + scale * b) + 0.5) + 1 + <int64_t> (x >> 63)


def touches(const double[:, ::1] bars, const int64_t[::1] entry, const int64_t[::1] last, const double[::1] up,
            const double[::1] down, const double[::1] side, int64_t[::1] how, double[::1] price,
            int64_t[::1] after):
    """How each window ends; OUT how, price, after (m,)."""
    cdef Py_ssize_t k
    cdef int64_t row
    cdef bint top
    cdef bint bottom
    cdef bint stop
    with nogil:
        for k in range(entry.shape[0]):
            how[k] = 1
            price[k] = bars[last[k], 3]
            after[k] = last[k] - entry[k]
            for row in range(entry[k] + 1, last[k] + 1):
                top = bars[row, 1] >= up[k]
                bottom = bars[row, 2] <= down[k]
                if not (top or bottom):
                    continue
                stop = bottom if side[k] > 0 else top
                how[k] = 0 if stop else 2
                if stop and side[k] > 0:
                    price[k] = bars[row, 0] if bars[row, 0] < down[k] else down[k]
                elif stop:
                    price[k] = bars[row, 0] if bars[row, 0] > up[k] else up[k]
                else:
                    price[k] = up[k] if side[k] > 0 else down[k]
                after[k] = row - entry[k]
                break


def moments(const float[:, ::1] values, Py_ssize_t block, double[::1] mean, double[::1] second, double[::1] low,
            double[::1] high, double[::1] total, double[::1] about):
    """Mean, sum of squares about it, least and greatest of each column; OUT mean, second, low, high (width,); WORK
    total, about (width,)."""
    cdef Py_ssize_t n = values.shape[0]
    cdef Py_ssize_t width = values.shape[1]
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t stop
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef double x
    cdef double count
    cdef double own
    cdef double delta
    cdef double* sums = &total[0]
    cdef double* squares = &about[0]
    cdef double* least = &low[0]
    cdef double* most = &high[0]
    cdef const float* row
    with nogil:
        for c in range(width):
            mean[c] = 0.0
            second[c] = 0.0
            low[c] = INFINITY
            high[c] = -INFINITY
        while start < n:
            stop = start + block if n - start > block else n
            for c in range(width):
                sums[c] = 0.0
                squares[c] = 0.0
            for i in range(start, stop):
                row = &values[i, 0]
                for c in range(width):
                    x = row[c]
                    sums[c] += x
                    least[c] = x if x < least[c] else least[c]
                    most[c] = x if x > most[c] else most[c]
            count = <double> (stop - start)
            for c in range(width):
                sums[c] /= count
            for i in range(start, stop):
                row = &values[i, 0]
                for c in range(width):
                    x = row[c] - sums[c]
                    squares[c] += x * x
            for c in range(width):
                # Chan: two sets of values, put together.
                own = sums[c]
                delta = own - mean[c]
                mean[c] += delta * (count / <double> stop)
                second[c] += squares[c] + delta * delta * (<double> start * count / <double> stop)
            start = stop


def first_not_finite(const uint32_t[::1] bits):
    """The place of the first float32 that is NaN or infinite, -1 without one; IN bits: the floats as they lie."""
    cdef Py_ssize_t n = bits.shape[0]
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t k
    cdef uint32_t any_bad
    with nogil:
        while i + 64 <= n:
            any_bad = 0
            for k in range(64):
                any_bad |= (bits[i + k] & <uint32_t> 0x7F800000) == <uint32_t> 0x7F800000
            if any_bad:
                break
            i += 64
        while i < n and (bits[i] & <uint32_t> 0x7F800000) != <uint32_t> 0x7F800000:
            i += 1
    return i if i < n else -1


def has_nan(const uint32_t[:, ::1] bits, unsigned char[::1] out):
    """Whether each row holds a NaN; IN bits: the floats as they lie; OUT out (n,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef Py_ssize_t width = bits.shape[1]
    cdef uint32_t found
    cdef const uint32_t* row
    if width == 0:
        out[:] = 0
        return
    with nogil:
        for i in range(bits.shape[0]):
            row = &bits[i, 0]
            found = 0
            for c in range(width):
                # Above infinity lie the NaNs: the difference has its sign bit set.
                found |= <uint32_t> 0x7F800000 - (row[c] & <uint32_t> 0x7FFFFFFF)
            out[i] = found >> 31


def weigh(const uint32_t[:, ::1] words, const uint64_t[::1] weights, uint64_t[::1] out):
    """Add to each row's number the sum of its words, each times its weight; IN and OUT out (n,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef Py_ssize_t width = words.shape[1]
    cdef uint64_t found
    cdef const uint32_t* row
    cdef const uint64_t* weight
    if width == 0:
        return
    weight = &weights[0]
    with nogil:
        for i in range(words.shape[0]):
            row = &words[i, 0]
            found = 0
            for c in range(width):
                found += <uint64_t> row[c] * weight[c]
            out[i] += found


def ordered_keys(const uint32_t[:, ::1] bits, Py_ssize_t first, uint64_t[:, ::1] out):
    """Of columns `first` on, the values as numbers that are ordered as the floats are, above each its row below; IN
    bits (n, k): the floats as they lie; OUT out (c, n)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef Py_ssize_t n = bits.shape[0]
    cdef Py_ssize_t width = out.shape[0]
    cdef uint32_t x
    with nogil:
        for i in range(n):
            for c in range(width):
                x = bits[i, first + c]
                if x == <uint32_t> 0x80000000:
                    x = 0  # -0.0 is 0
                x = ~x if x >> 31 else x | <uint32_t> 0x80000000
                out[c, i] = (<uint64_t> x << 32) | <uint64_t> i


def rank_sums(const uint64_t[:, ::1] ordered, const double[:, ::1] marks, double[:, ::1] out):
    """For each row of `ordered` and each of 8 columns of `marks` the sum over places of mark times twice the rank,
    from 2, equal values sharing theirs; IN ordered (k, n): sorted keys, marks (n, 8); OUT out (k, 8)."""
    cdef Py_ssize_t k
    cdef Py_ssize_t n = ordered.shape[1]
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef Py_ssize_t i
    cdef int c
    cdef double rank
    cdef const double* mark
    cdef const uint64_t* keys
    cdef double sums[8]
    if n == 0:
        return
    with nogil:
        for k in range(ordered.shape[0]):
            start = 0
            keys = &ordered[k, 0]
            for c in range(8):
                sums[c] = 0.0
            while start < n:
                stop = start + 1
                while stop < n and keys[stop] >> 32 == keys[start] >> 32:
                    stop += 1
                rank = <double> (start + stop + 1)
                for i in range(start, stop):
                    mark = &marks[<Py_ssize_t> (keys[i] & <uint64_t> 0xFFFFFFFF), 0]
                    for c in range(8):
                        sums[c] += rank * mark[c]
                start = stop
            for c in range(8):
                out[k, c] = sums[c]


def products(const float[:, ::1] values, const double[::1] mean, const double[:, ::1] about, double[:, ::1] out,
             double[::1] squares):
    """The sums over rows of each column less its mean, times each of `about`, and of its square; IN about (t, n);
    IN and OUT out (t, k), squares (k,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef Py_ssize_t t
    cdef Py_ssize_t width = values.shape[1]
    cdef double x
    cdef double weight
    cdef const float* row
    cdef const double* means
    cdef double* to
    cdef double* square
    if width == 0:
        return
    means = &mean[0]
    square = &squares[0]
    with nogil:
        for i in range(values.shape[0]):
            row = &values[i, 0]
            for c in range(width):
                x = row[c] - means[c]
                square[c] += x * x
            for t in range(about.shape[0]):
                to = &out[t, 0]
                weight = about[t, i]
                for c in range(width):
                    to[c] += weight * (row[c] - means[c])


def window_sums(const double[::1] values, Py_ssize_t n, double[::1] out):
    """The sum of each n neighbours, from the oldest on; OUT out (rows - n + 1,), zeros."""
    cdef Py_ssize_t k
    cdef Py_ssize_t i
    cdef Py_ssize_t rows = out.shape[0]
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t stop
    cdef const double* from_
    cdef double* to = &out[0]
    with nogil:
        while start < rows:
            # A stretch at a time stays in the nearest memory.
            stop = start + 512 if rows - start > 512 else rows
            for k in range(n):
                from_ = &values[k]
                for i in range(start, stop):
                    to[i] += from_[i]
            start = stop


def price_marks(const double[::1] price, const unsigned char[::1] flags, double[::1] out):
    """Of the trades that set a close: how many, how many in whole cents, the first and the last price; OUT out (4,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t n = price.shape[0]
    cdef Py_ssize_t first = -1
    cdef Py_ssize_t last = -1
    cdef int64_t count = 0
    cdef int64_t whole = 0
    cdef double cents
    cdef double far
    cdef bint counts
    with nogil:
        for i in range(n):
            counts = (flags[i] & 2) != 0
            cents = price[i] * 100.0
            # Adding and taking away 1.5 x 2^52 rounds to whole numbers, halves to even ones.
            far = cents - ((cents + 6755399441055744.0) - 6755399441055744.0)
            whole += counts and far < 1e-6 and far > -1e-6
            count += counts
        for i in range(n):
            if flags[i] & 2:
                first = i
                break
        for i in range(n - 1, -1, -1):
            if flags[i] & 2:
                last = i
                break
    out[0] = <double> count
    out[1] = <double> whole
    if count:
        out[2] = price[first]
        out[3] = price[last]


def deviations(const float[:, ::1] values, const double[::1] about, double[::1] total, double[::1] squares):
    """The sums of each column's differences from `about`, and of their squares; IN and OUT total, squares (k,)."""
    cdef Py_ssize_t i
    cdef Py_ssize_t c
    cdef Py_ssize_t width = values.shape[1]
    cdef double x
    cdef const float* row
    cdef const double* from_
    cdef double* sums
    cdef double* square
    if width == 0:
        return
    from_ = &about[0]
    sums = &total[0]
    square = &squares[0]
    with nogil:
        for i in range(values.shape[0]):
            row = &values[i, 0]
            for c in range(width):
                x = row[c] - from_[c]
                sums[c] += x
                square[c] += x * x
