# cython: freethreading_compatible=True
"""Delimited text to columns: the loop. Called by `tapeline.bars.text`, which checks and allocates.

A row is a line. Each wanted column has a kind: a decimal number (float64, correctly rounded), a number of
fixed point (int64, so that no time passes through a float), a hexadecimal number, or the place of its text.
"""

from libc.math cimport NAN
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef enum:
    SKIP = 0
    DECIMAL = 1
    FIXED = 2
    HEX = 3
    TEXT = 4

cdef enum:
    OK = 0
    BAD_FIELD = 1
    MISSING_COLUMN = 2
    LONG_LINE = 3
    MANY_COLUMNS = 4
    FULL = 5

cdef enum:
    MOST_LINE = 65536
    MOST_COLUMNS = 64

cdef double[23] POWER
POWER[:] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17,
            1e18, 1e19, 1e20, 1e21, 1e22]


cdef inline int decimal_of(const uint8_t* text, Py_ssize_t n, uint8_t point, double* found) noexcept nogil:
    """1: found; 0: no number; 2: a number that needs the slow, exact conversion."""
    cdef Py_ssize_t i = 0
    cdef bint minus = False
    cdef bint minus_exponent = False
    cdef bint slow = False
    cdef uint64_t digits = 0
    cdef int seen = 0
    cdef int some = 0
    cdef int exponent = 0
    cdef int shift = 0
    cdef uint8_t c
    if n == 0:
        found[0] = NAN
        return 1
    if text[0] == 45 or text[0] == 43:
        minus = text[0] == 45
        i = 1
    if n - i == 3 and (text[i] | 32) == 110 and (text[i + 1] | 32) == 97 and (text[i + 2] | 32) == 110:
        found[0] = NAN
        return 1
    if n - i == 3 and (text[i] | 32) == 105 and (text[i + 1] | 32) == 110 and (text[i + 2] | 32) == 102:
        found[0] = -1.0 / 0.0 if minus else 1.0 / 0.0
        return 1
    while i < n and 48 <= text[i] <= 57:
        digits = digits * 10 + (text[i] - 48)
        some = 1
        if digits > 0:
            seen += 1
        i += 1
        if seen > 18:
            slow = True
            digits = 1
    if i < n and text[i] == point:
        i += 1
        while i < n and 48 <= text[i] <= 57:
            digits = digits * 10 + (text[i] - 48)
            some = 1
            if digits > 0:
                seen += 1
            exponent -= 1
            i += 1
            if seen > 18:
                slow = True
                digits = 1
    if some == 0:
        return 0
    if i < n and (text[i] | 32) == 101:
        i += 1
        if i < n and (text[i] == 45 or text[i] == 43):
            minus_exponent = text[i] == 45
            i += 1
        if i >= n:
            return 0
        while i < n and 48 <= text[i] <= 57:
            shift = shift * 10 + (text[i] - 48)
            if shift > 10000:
                return 2
            i += 1
        exponent += -shift if minus_exponent else shift
    if i != n:
        return 0
    # Both numbers are exact below these bounds, so one rounding gives the nearest float64.
    if slow or digits > 9007199254740992ULL or exponent > 22 or exponent < -22:
        return 2
    found[0] = <double> digits
    if exponent < 0:
        found[0] /= POWER[-exponent]
    elif exponent > 0:
        found[0] *= POWER[exponent]
    if minus:
        found[0] = -found[0]
    return 1


cdef inline bint fixed_of(const uint8_t* text, Py_ssize_t n, uint8_t point, int places, int64_t* found) noexcept nogil:
    """A number with `places` digits after the point, all others zero, as int64; false if it is none."""
    cdef Py_ssize_t i = 0
    cdef bint minus = False
    cdef uint64_t digits = 0
    cdef int left = places
    cdef int some = 0
    if n > 0 and (text[0] == 45 or text[0] == 43):
        minus = text[0] == 45
        i = 1
    while i < n and 48 <= text[i] <= 57:
        if digits > 900000000000000000ULL:
            return False
        digits = digits * 10 + (text[i] - 48)
        some = 1
        i += 1
    if i < n and text[i] == point:
        i += 1
        while i < n and 48 <= text[i] <= 57:
            if left > 0:
                if digits > 900000000000000000ULL:
                    return False
                digits = digits * 10 + (text[i] - 48)
                left -= 1
            elif text[i] != 48:
                return False
            some = 1
            i += 1
    if some == 0 or i != n:
        return False
    while left > 0:
        if digits > 900000000000000000ULL:
            return False
        digits *= 10
        left -= 1
    found[0] = -(<int64_t> digits) if minus else <int64_t> digits
    return True


cdef inline bint hex_of(const uint8_t* text, Py_ssize_t n, int64_t* found) noexcept nogil:
    cdef Py_ssize_t i
    cdef int64_t total = 0
    cdef uint8_t c
    if n > 15:
        return False
    for i in range(n):
        c = text[i]
        if 48 <= c <= 57:
            total = total * 16 + (c - 48)
        elif 97 <= (c | 32) <= 102:
            total = total * 16 + ((c | 32) - 87)
        else:
            return False
    found[0] = total
    return True


cdef int parse_loop(const uint8_t* text, Py_ssize_t size, uint8_t delimiter, uint8_t point, const int32_t* kinds,
                    const int32_t* slots, Py_ssize_t columns, double* numbers, int64_t* whole, Py_ssize_t capacity,
                    int64_t* slow, Py_ssize_t most_slow, int64_t* state) noexcept nogil:
    # state: 0 position, 1 row, 2 line, 3 slow numbers, 4 column, 5 first byte and 6 length of a field at fault
    cdef Py_ssize_t position = state[0]
    cdef Py_ssize_t row = state[1]
    cdef Py_ssize_t start
    cdef Py_ssize_t stop
    cdef Py_ssize_t first
    cdef Py_ssize_t last
    cdef Py_ssize_t column
    cdef Py_ssize_t before
    cdef int slot
    cdef int kind
    cdef int got
    cdef double number = 0.0
    cdef int64_t integer = 0
    while position < size:
        start = position
        stop = start
        while stop < size and text[stop] != 10:
            stop += 1
        position = stop + 1 if stop < size else stop
        if stop > start and text[stop - 1] == 13:
            stop -= 1
        if stop - start > MOST_LINE:
            state[0] = position
            state[4] = 0
            state[5] = start
            state[6] = 80
            return LONG_LINE
        if stop == start:
            state[2] += 1
            continue
        if row >= capacity:
            state[0] = start
            state[1] = row
            return FULL
        before = state[3]
        first = start
        column = 0
        while True:
            if column >= MOST_COLUMNS:
                state[0] = position
                state[1] = row
                state[4] = column
                state[5] = start
                state[6] = stop - start
                return MANY_COLUMNS
            if first < stop and text[first] == 34:
                first += 1
                last = first
                while last < stop and text[last] != 34:
                    last += 1
                got = 1
            else:
                last = first
                while last < stop and text[last] != delimiter:
                    last += 1
                got = 0
            if column < columns and kinds[column] != SKIP:
                kind = kinds[column]
                slot = slots[column]
                if kind == DECIMAL:
                    got += 10 * decimal_of(text + first, last - first, point, &number)
                    numbers[slot * capacity + row] = number
                    if got >= 20:
                        if state[3] >= most_slow:
                            state[0] = start
                            state[1] = row
                            state[3] = before
                            return FULL
                        slow[4 * state[3]] = slot
                        slow[4 * state[3] + 1] = row
                        slow[4 * state[3] + 2] = first
                        slow[4 * state[3] + 3] = last - first
                        state[3] += 1
                elif kind == FIXED:
                    got += 10 * fixed_of(text + first, last - first, point, slots[columns + column], &integer)
                    whole[slot * capacity + row] = integer
                elif kind == HEX:
                    got += 10 * hex_of(text + first, last - first, &integer)
                    whole[slot * capacity + row] = integer
                else:
                    got += 10
                    whole[slot * capacity + row] = first
                    whole[(slot + 1) * capacity + row] = last - first
                if got < 10:
                    state[0] = position
                    state[1] = row
                    state[3] = before
                    state[4] = column
                    state[5] = first
                    state[6] = last - first
                    return BAD_FIELD
            if got % 10 == 1 and last < stop:
                last += 1  # the closing quote
                if last < stop and text[last] != delimiter:
                    state[0] = position
                    state[1] = row
                    state[3] = before
                    state[4] = column
                    state[5] = first
                    state[6] = last - first
                    return BAD_FIELD
            column += 1
            if last >= stop:
                break
            first = last + 1
        if column < columns:
            state[0] = position
            state[1] = row
            state[3] = before
            state[4] = column
            state[5] = start
            state[6] = stop - start
            return MISSING_COLUMN
        row += 1
        state[2] += 1
    state[0] = position
    state[1] = row
    return OK


def parse(const uint8_t[::1] text, int delimiter, int point, const int32_t[::1] kinds, const int32_t[::1] slots,
          double[:, ::1] numbers, int64_t[:, ::1] whole, int64_t[:, ::1] slow, int64_t[::1] state):
    """Lines from `state[0]` on; `slots` holds a slot for each column, then digits after the point for each.

    IN text, kinds (columns,), slots (2 columns,); OUT numbers (slots, capacity), whole (slots, capacity), slow
    (n, 4): slot, row, first byte and length of numbers left to the caller; IN and OUT state (7,).
    """
    cdef Py_ssize_t size = text.shape[0]
    cdef Py_ssize_t columns = kinds.shape[0]
    cdef Py_ssize_t capacity = numbers.shape[1]
    cdef Py_ssize_t most_slow = slow.shape[0]
    cdef int status
    if size == 0:
        return OK
    with nogil:
        status = parse_loop(&text[0], size, delimiter, point, &kinds[0], &slots[0], columns, &numbers[0, 0],
                            &whole[0, 0], capacity, &slow[0, 0], most_slow, &state[0])
    return status
