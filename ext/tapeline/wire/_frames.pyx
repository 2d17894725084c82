"""What a broker sends, cut into frames; the deliveries of one subscription become commits at once.

`tapeline.wire.reference` is the same in plain Python, and says what each frame is.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport datetime_new, import_datetime
from libc.string cimport memchr, memcmp

from datetime import timezone

import_datetime()

cdef extern from "Python.h":
    object PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)

cdef object UTC = timezone.utc


cdef Py_ssize_t MOST_BYTES = 64 * 1024 * 1024
cdef Py_ssize_t MOST_LINE = 1024 * 1024

cdef struct Delivery:
    # Where a message stands, as its reply subject says.
    long long position
    long long ns
    long long pending

cdef struct Day:
    int year
    int month
    int day


cdef inline Day civil(long long days) noexcept nogil:
    """The date so many days after 1970-01-01, in the proleptic Gregorian calendar."""
    cdef Day found
    cdef long long z = days + 719468
    cdef long long era = (z if z >= 0 else z - 146096) // 146097
    cdef long long doe = z - era * 146097
    cdef long long yoe = (doe - doe // 1460 + doe // 36524 - doe // 146096) // 365
    cdef long long doy = doe - (365 * yoe + yoe // 4 - yoe // 100)
    cdef long long mp = (5 * doy + 2) // 153
    found.day = <int>(doy - (153 * mp + 2) // 5 + 1)
    found.month = <int>(mp + 3 if mp < 10 else mp - 9)
    found.year = <int>(yoe + era * 400 + (1 if found.month <= 2 else 0))
    return found


cdef object time_of_ns(long long ns):
    cdef long long seconds = ns // 1000000000
    cdef long long rest = (ns - seconds * 1000000000) // 1000
    cdef long long days = seconds // 86400
    cdef int of_day = <int>(seconds - days * 86400)
    cdef Day at = civil(days)
    return datetime_new(at.year, at.month, at.day, of_day // 3600, of_day // 60 % 60, of_day % 60, <int>rest, UTC)


cdef inline int digits(const char* text, int n) noexcept nogil:
    """A number of n digits; below zero when one is none."""
    cdef int found = 0
    cdef int i
    for i in range(n):
        if text[i] < c'0' or text[i] > c'9':
            return -1
        found = 10 * found + (text[i] - c'0')
    return found


cdef object time_of_text(const char* text, Py_ssize_t size):
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ` as a time; None for any other form."""
    if size != 27 or text[4] != c'-' or text[7] != c'-' or text[10] != c'T' or text[13] != c':':
        return None
    if text[16] != c':' or text[19] != c'.' or text[26] != c'Z':
        return None
    cdef int year = digits(text, 4), month = digits(text + 5, 2), day = digits(text + 8, 2)
    cdef int hour = digits(text + 11, 2), minute = digits(text + 14, 2), second = digits(text + 17, 2)
    cdef int micro = digits(text + 20, 6)
    if year < 1 or month < 1 or month > 12 or day < 1 or day > 28 and day > last_day(year, month):
        return None
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59 or micro < 0:
        return None
    return datetime_new(year, month, day, hour, minute, second, micro, UTC)


cdef inline int last_day(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


cdef inline long long number(const char* text, const char* end) noexcept nogil:
    """A number in decimal; below zero when it is none, or longer than 18 digits."""
    cdef long long found = 0
    if text == end or end - text > 18 and not (end - text == 19 and text[0] <= c'8'):
        return -1
    while text < end:
        if text[0] < c'0' or text[0] > c'9':
            return -1
        found = 10 * found + (text[0] - c'0')
        text += 1
    return found


cdef inline bint delivered(const char* reply, const char* end, Delivery* found) noexcept nogil:
    """Read `$JS.ACK.[domain.hash.]stream.consumer.deliveries.position.sequence.ns.pending[.…]`."""
    cdef const char* starts[16]
    cdef const char* at = reply
    cdef int n = 0, first
    if end - reply < 8 or memcmp(reply, b"$JS.ACK.", 8) != 0:
        return False
    starts[0] = at
    while at < end:
        if at[0] == c'.':
            n += 1
            if n > 14:
                return False
            starts[n] = at + 1
        at += 1
    n += 1
    starts[n] = end + 1
    if n == 9:
        first = 5
    elif n >= 11:
        first = 7
    else:
        return False
    found.position = number(starts[first], starts[first + 1] - 1)
    found.ns = number(starts[first + 2], starts[first + 3] - 1)
    found.pending = number(starts[first + 3], starts[first + 4] - 1)
    return found.position > 0 and found.ns >= 0 and found.pending >= 0


@cython.final
cdef class Frames:
    """See `tapeline.wire.reference.Frames`."""

    cdef readonly long long sid
    cdef object _make
    cdef list _held
    cdef Py_ssize_t _held_bytes
    cdef Py_ssize_t _needed

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget what has not come whole."""
        self._held = []
        self._held_bytes = 0
        self._needed = 0

    def divert(self, sid, make):
        """Have the deliveries of one subscription come as runs."""
        self.sid = sid
        self._make = make

    def feed(self, bytes data not None):
        """The frames that are whole with these bytes."""
        cdef list found = []
        cdef list run = None
        cdef Py_ssize_t taken
        cdef long long first = 0, last = 0, pending = 0
        cdef Delivery at
        cdef const char* begin
        cdef const char* text
        cdef const char* end
        cdef const char* line_end
        cdef const char* body
        cdef const char* starts[8]
        cdef const char* ends[8]
        cdef const char* scan
        cdef int n, has_headers
        cdef long long sid, size, header_size
        cdef object value
        if self._held:
            self._held.append(data)
            self._held_bytes += PyBytes_GET_SIZE(data)
            if self._held_bytes < self._needed:
                return found
            data = b"".join(self._held)
        begin = PyBytes_AS_STRING(data)
        text = begin
        end = begin + PyBytes_GET_SIZE(data)
        self._needed = 0
        while text < end:
            line_end = <const char*>memchr(text, c'\n', end - text)
            if line_end == NULL:
                if end - text > MOST_LINE:
                    raise ValueError("a line without an end")
                break
            has_headers = text[0] == c'H'
            if not ((has_headers and line_end - text > 5 and memcmp(text, b"HMSG ", 5) == 0)
                    or (line_end - text > 4 and memcmp(text, b"MSG ", 4) == 0)):
                if run is not None:
                    found.append((first, last, pending, run))
                    run = None
                found.append(PyBytes_FromStringAndSize(text, line_end + 1 - text))
                text = line_end + 1
                continue
            # The words after the first: subject, sid, [reply], [size of headers], size.
            n = 0
            scan = text + (5 if has_headers else 4)
            while scan < line_end and n < 7:
                while scan < line_end and (scan[0] == c' ' or scan[0] == c'\t' or scan[0] == c'\r'):
                    scan += 1
                if scan == line_end:
                    break
                starts[n] = scan
                while scan < line_end and scan[0] != c' ' and scan[0] != c'\t' and scan[0] != c'\r':
                    scan += 1
                ends[n] = scan
                n += 1
            if n < 3 + has_headers or n > 4 + has_headers:
                raise ValueError("a message line that is none")
            sid = number(starts[1], ends[1])
            size = number(starts[n - 1], ends[n - 1])
            header_size = number(starts[n - 2], ends[n - 2]) if has_headers else 0
            if sid < 0 or header_size < 0 or size < header_size or size > MOST_BYTES:
                raise ValueError("a message line that is none")
            body = line_end + 1
            if end - body < size + 2:
                self._needed = (body - text) + size + 2
                break
            value = None
            if (n == 4 + has_headers and has_headers and self._make is not None and sid == self.sid
                    and delivered(starts[2], ends[2], &at)):
                value = self._commit(&at, starts[0], ends[0], body, header_size, size)
            if value is None:
                if run is not None:
                    found.append((first, last, pending, run))
                    run = None
                found.append((
                    sid,
                    PyBytes_FromStringAndSize(starts[0], ends[0] - starts[0]),
                    PyBytes_FromStringAndSize(starts[2], ends[2] - starts[2]) if n == 4 + has_headers else b"",
                    PyBytes_FromStringAndSize(body + header_size, size - header_size),
                    PyBytes_FromStringAndSize(body, header_size) if has_headers else None,
                ))
            else:
                if run is not None and at.position != last + 1:
                    found.append((first, last, pending, run))
                    run = None
                if run is None:
                    run = []
                    first = at.position
                run.append(value)
                last = at.position
                pending = at.pending
            text = body + size + 2
        if run is not None:
            found.append((first, last, pending, run))
        taken = text - begin
        if taken == PyBytes_GET_SIZE(data):
            self._held = []
            self._held_bytes = 0
        else:
            self._held = [data[taken:]]
            self._held_bytes = PyBytes_GET_SIZE(data) - taken
        return found

    cdef object _commit(
        self, Delivery* at, const char* subject, const char* subject_end, const char* headers,
        long long header_size, long long size,
    ):
        """The value of a delivery; None when it must be looked at by somebody else."""
        cdef const char* line = headers
        cdef const char* end = headers + header_size
        cdef const char* line_end
        cdef const char* commit = NULL
        cdef const char* commit_end = NULL
        cdef const char* stored = NULL
        cdef const char* stored_end = NULL
        cdef const char* scan
        if header_size < 12 or memcmp(headers, b"NATS/1.0\r\n", 10) != 0:
            return None
        line = headers + 10
        while line < end:
            line_end = <const char*>memchr(line, c'\n', end - line)
            if line_end == NULL:
                return None
            line_end -= 1
            if line_end < line or line_end[0] != c'\r':
                return None
            if line_end - line >= 11 and line[0] == c'T':
                if commit == NULL and memcmp(line, b"Tl-Commit: ", 11) == 0:
                    commit, commit_end = line + 11, line_end
                elif stored == NULL and line_end - line >= 14 and memcmp(line, b"Tl-Stored-At: ", 14) == 0:
                    stored, stored_end = line + 14, line_end
            line = line_end + 2
        if commit == NULL:
            return None
        scan = subject
        while scan < subject_end:
            if <unsigned char>scan[0] > 127:
                return None
            scan += 1
        if stored == NULL:
            when = time_of_ns(at.ns)
        else:
            when = time_of_text(stored, stored_end - stored)
            if when is None:
                return None
        return self._make(
            at.position,
            PyUnicode_DecodeASCII(subject, subject_end - subject, NULL),
            PyBytes_FromStringAndSize(commit, commit_end - commit),
            PyBytes_FromStringAndSize(headers + header_size, size - header_size),
            when,
        )
