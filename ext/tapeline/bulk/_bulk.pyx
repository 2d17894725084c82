"""Digests, roots, lines and publishes of many commits at once.

`tapeline.bulk.reference` is the same in plain Python, and says what each gives.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport (
    datetime_day, datetime_hour, datetime_microsecond, datetime_minute, datetime_month, datetime_new, datetime_second,
    datetime_tzinfo, datetime_year, import_datetime,
)
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from datetime import timezone

import_datetime()

cdef extern from "Python.h":
    object PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "roots.h":
    int tl_lanes() noexcept nogil
    void tl_sha256(int lanes, int64_t n, const uint8_t** data, const uint64_t* sizes, const int64_t* order,
                   uint8_t* out) noexcept nogil
    void tl_root(const uint8_t* text, uint8_t* out) noexcept nogil

cdef object UTC = timezone.utc
cdef int WIDTH = tl_lanes()


def digests(commits):
    """The raw digest of each commit."""
    cdef list many = list(commits)
    cdef Py_ssize_t n = len(many)
    cdef list held = []
    cdef list found
    cdef Py_ssize_t i, subject_size, room = 0
    cdef bytes header, body
    cdef const char* subject
    cdef char* at
    cdef char* text = NULL
    cdef const uint8_t** data = NULL
    cdef uint64_t* sizes = NULL
    cdef int64_t* order = NULL
    cdef uint8_t* out = NULL
    for i in range(n):
        name, header, body = many[i].subject, many[i].header, many[i].body
        PyUnicode_AsUTF8AndSize(name, &subject_size)
        room += 6 + subject_size + PyBytes_GET_SIZE(header) + PyBytes_GET_SIZE(body)
        held.append((name, header, body))
    try:
        text = <char*>malloc(room + 1)
        data = <const uint8_t**>malloc((n + 1) * sizeof(void*))
        sizes = <uint64_t*>malloc((n + 1) * sizeof(uint64_t))
        order = <int64_t*>malloc((n + 1) * sizeof(int64_t))
        out = <uint8_t*>malloc(32 * n + 1)
        if text == NULL or data == NULL or sizes == NULL or order == NULL or out == NULL:
            raise MemoryError
        at = text
        for i in range(n):
            name, header, body = held[i]
            subject = PyUnicode_AsUTF8AndSize(name, &subject_size)
            data[i], order[i] = <const uint8_t*>at, i
            at = put(at, b"tl1\n", 4)
            at = put(at, subject, subject_size)
            at = put(at, b"\n", 1)
            at = put(at, PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header))
            at = put(at, b"\n", 1)
            at = put(at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            sizes[i] = <uint64_t>(<const uint8_t*>at - data[i])
        with nogil:
            tl_sha256(WIDTH, n, data, sizes, order, out)
        found = [PyBytes_FromStringAndSize(<char*>out + 32 * i, 32) for i in range(n)]
    finally:
        free(text)
        free(data)
        free(sizes)
        free(order)
        free(out)
    return found


def roots(bytes root not None, digests):
    """The root after each commit."""
    cdef list found = []
    cdef uint8_t text[64]
    cdef bytes digest, out
    if PyBytes_GET_SIZE(root) != 32:
        raise ValueError("a root has 32 bytes")
    memcpy(text, PyBytes_AS_STRING(root), 32)
    for digest in digests:
        if digest is None or PyBytes_GET_SIZE(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        memcpy(text + 32, PyBytes_AS_STRING(digest), 32)
        out = PyBytes_FromStringAndSize(NULL, 32)
        tl_root(text, <uint8_t*>PyBytes_AS_STRING(out))
        memcpy(text, PyBytes_AS_STRING(out), 32)
        found.append(out)
    return found


cdef inline int number_of(const char* text, int n) noexcept nogil:
    """A number of n digits; below zero when one is none."""
    cdef int found = 0
    cdef int i
    for i in range(n):
        if text[i] < c'0' or text[i] > c'9':
            return -1
        found = 10 * found + (text[i] - c'0')
    return found


cdef inline int last_day(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31


cdef object time_of(const char* text):
    """`YYYY-MM-DDTHH:MM:SS.ffffffZ` as a time; None for any other."""
    cdef int year, month, day, hour, minute, second, micro
    if text[4] != c'-' or text[7] != c'-' or text[10] != c'T' or text[13] != c':' or text[16] != c':':
        return None
    if text[19] != c'.' or text[26] != c'Z':
        return None
    year, month, day = number_of(text, 4), number_of(text + 5, 2), number_of(text + 8, 2)
    hour, minute, second = number_of(text + 11, 2), number_of(text + 14, 2), number_of(text + 17, 2)
    micro = number_of(text + 20, 6)
    if year < 1 or month < 1 or month > 12 or day < 1 or day > last_day(year, month):
        return None
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59 or micro < 0:
        return None
    return datetime_new(year, month, day, hour, minute, second, micro, UTC)


cdef inline const char* string_end(const char* text, const char* end, Py_ssize_t* escapes) noexcept nogil:
    """The quote that ends a string, which begins at `text`; NULL when it holds anything but plain ASCII."""
    escapes[0] = 0
    while text < end:
        if text[0] == c'"':
            return text
        if text[0] == c'\\':
            if end - text < 2 or (text[1] != c'"' and text[1] != c'\\'):
                return NULL
            escapes[0] += 1
            text += 2
        elif text[0] < 32 or text[0] > 126:  # also what is not ASCII: `char` is signed or not, it fails one of them
            return NULL
        else:
            text += 1
    return NULL


cdef bytes unescaped(const char* text, const char* end, Py_ssize_t escapes):
    cdef bytes found = PyBytes_FromStringAndSize(NULL, end - text - escapes)
    cdef char* to = PyBytes_AS_STRING(found)
    cdef const char* slash
    while True:
        slash = <const char*>memchr(text, c'\\', end - text)
        if slash == NULL:
            memcpy(to, text, end - text)
            return found
        memcpy(to, text, slash - text)
        to += slash - text
        to[0] = slash[1]
        to += 1
        text = slash + 2


def lines(bytes text not None, make, Py_ssize_t start=0, long long most=4611686018427387904):
    """Values of at most so many whole lines of a text from `start` on, and where the next line begins."""
    cdef const char* begin = PyBytes_AS_STRING(text)
    cdef const char* end = begin + PyBytes_GET_SIZE(text)
    cdef const char* line
    cdef const char* at
    cdef const char* line_end
    cdef const char* stop
    cdef const char* subject
    cdef const char* subject_end
    cdef const char* body
    cdef list found = []
    cdef Py_ssize_t escapes
    cdef long long position
    cdef int n
    cdef bytes header
    if start < 0 or start > end - begin:
        raise ValueError("a text is read from a place within it")
    line = begin + start
    while line < end and len(found) < most:
        line_end = <const char*>memchr(line, c'\n', end - line)
        if line_end == NULL or line_end - line < 60:
            break
        if memcmp(line, b'{"p":', 5) != 0:
            break
        at = line + 5
        position, n = 0, 0
        while n < 19 and c'0' <= at[0] <= c'9':
            position = 10 * position + (at[0] - c'0')
            at += 1
            n += 1
        if n == 0 or n > 18 or line[5] == c'0':
            break
        if line_end - at < 6 + 27 + 7 or memcmp(at, b',"t":"', 6) != 0:
            break
        at += 6
        when = time_of(at)
        if when is None or memcmp(at + 27, b'","s":"', 7) != 0:
            break
        subject = at + 27 + 7
        subject_end = string_end(subject, line_end, &escapes)
        if subject_end == NULL or escapes or line_end - subject_end < 7 or memcmp(subject_end, b'","h":"', 7) != 0:
            break
        at = subject_end + 7
        stop = string_end(at, line_end, &escapes)
        if stop == NULL or line_end - stop < 7 or memcmp(stop, b'","b":"', 7) != 0:
            break
        header = unescaped(at, stop, escapes)
        body = stop + 7
        stop = string_end(body, line_end, &escapes)
        if stop == NULL or line_end - stop != 2 or stop[1] != c'}':
            break
        found.append(make(
            position, PyUnicode_DecodeASCII(subject, subject_end - subject, NULL), header,
            unescaped(body, stop, escapes), when,
        ))
        line = line_end + 1
    return found, line - begin


cdef inline char* put_number(char* at, long long number) noexcept nogil:
    cdef char digits[20]
    cdef int n = 0
    while True:
        digits[n] = <char>(c'0' + number % 10)
        number //= 10
        n += 1
        if number == 0:
            break
    while n:
        n -= 1
        at[0] = digits[n]
        at += 1
    return at


cdef inline void put_digits(char* at, int number, int n) noexcept nogil:
    while n:
        n -= 1
        at[n] = <char>(c'0' + number % 10)
        number //= 10


cdef inline char* put(char* at, const char* text, Py_ssize_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef inline void put_time(char* at, object when):
    memcpy(at, b"0000-00-00T00:00:00.000000Z", 27)
    put_digits(at, datetime_year(when), 4)
    put_digits(at + 5, datetime_month(when), 2)
    put_digits(at + 8, datetime_day(when), 2)
    put_digits(at + 11, datetime_hour(when), 2)
    put_digits(at + 14, datetime_minute(when), 2)
    put_digits(at + 17, datetime_second(when), 2)
    put_digits(at + 20, datetime_microsecond(when), 6)


cdef inline int digits_of(long long number) noexcept nogil:
    cdef int n = 1
    while number >= 10:
        number //= 10
        n += 1
    return n


def publishes(commits, long long after, bytes reply not None):
    """Plain publishes of commits, each bound to the position before its own; the last asks for an answer."""
    cdef list many = list(commits)
    cdef Py_ssize_t n = len(many)
    cdef Py_ssize_t i, room = 0, subject_size, headers, size
    cdef const char* subject
    cdef bytes header, body, found
    cdef list texts = []
    cdef char* at
    if after < 0:
        raise ValueError("a position is not below zero")
    for i in range(n):
        header, body = many[i].header, many[i].body
        when = many[i].stored_at
        if datetime_tzinfo(when) is not UTC:
            when = when.astimezone(UTC)
        name = many[i].subject
        PyUnicode_AsUTF8AndSize(name, &subject_size)
        # What stays the same of a publish has 103 bytes; three numbers have at most 20 each.
        room += 103 + 60 + subject_size + PyBytes_GET_SIZE(header) + PyBytes_GET_SIZE(body)
        texts.append((name, header, body, when))
    room += PyBytes_GET_SIZE(reply) + 1
    found = PyBytes_FromStringAndSize(NULL, room)
    at = PyBytes_AS_STRING(found)
    for i in range(n):
        name, header, body, when = texts[i]
        subject = PyUnicode_AsUTF8AndSize(name, &subject_size)
        # NATS/1.0, and the three lines of headers with their ends, and the empty line.
        headers = 10 + 29 + digits_of(after + i) + 2 + 11 + PyBytes_GET_SIZE(header) + 2 + 14 + 27 + 2 + 2
        size = headers + PyBytes_GET_SIZE(body)
        at = put(at, b"HPUB ", 5)
        at = put(at, subject, subject_size)
        if i == n - 1:
            at = put(at, b" ", 1)
            at = put(at, PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply))
        at = put(at, b" ", 1)
        at = put_number(at, headers)
        at = put(at, b" ", 1)
        at = put_number(at, size)
        at = put(at, b"\r\nNATS/1.0\r\nNats-Expected-Last-Sequence: ", 12 + 29)
        at = put_number(at, after + i)
        at = put(at, b"\r\nTl-Commit: ", 2 + 11)
        at = put(at, PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header))
        at = put(at, b"\r\nTl-Stored-At: ", 2 + 14)
        put_time(at, when)
        at = put(at + 27, b"\r\n\r\n", 4)
        at = put(at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        at = put(at, b"\r\n", 2)
    return found[: at - PyBytes_AS_STRING(found)]
