"""Digests, roots, lines and publishes of many commits at once.

`tapeline.bulk.reference` is the same in plain Python, and says what each gives.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport (
    datetime_day, datetime_hour, datetime_microsecond, datetime_minute, datetime_month, datetime_new, datetime_second,
    datetime_tzinfo, datetime_year, import_datetime,
)
from libc.stdlib cimport free, malloc, qsort
from libc.string cimport memchr, memcmp, memcpy

from datetime import timezone

import_datetime()

cdef extern from "Python.h":
    object PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef extern from "sha256.h":
    enum:
        LANES
    long long sha256_blocks(long long size) nogil
    void sha256_pad(unsigned char* text, long long size) nogil
    void sha256_lanes(unsigned char** texts, const long long* blocks, unsigned char** out) nogil
    void sha256_of_64(const unsigned char* text, unsigned char* out) nogil

cdef object UTC = timezone.utc


cdef struct Part:
    # The three texts of a commit, and where its digest goes.
    const char* subject
    const char* header
    const char* body
    Py_ssize_t subject_size
    Py_ssize_t header_size
    Py_ssize_t body_size
    long long size
    unsigned char* out


cdef int by_size(const void* one, const void* other) noexcept nogil:
    cdef long long a = (<const Part*>one).size, b = (<const Part*>other).size
    return (a > b) - (a < b)


cdef inline void written(const Part* part, unsigned char* at) noexcept nogil:
    """What the digest of a commit is of, padded."""
    cdef unsigned char* begin = at
    memcpy(at, b"tl1\n", 4)
    at += 4
    memcpy(at, part.subject, part.subject_size)
    at += part.subject_size
    at[0] = c'\n'
    at += 1
    memcpy(at, part.header, part.header_size)
    at += part.header_size
    at[0] = c'\n'
    at += 1
    memcpy(at, part.body, part.body_size)
    sha256_pad(begin, part.size)


cdef int digest_all(Part* parts, Py_ssize_t n) noexcept nogil:
    """The digest of each; texts of like size share the lanes. Below zero without memory."""
    cdef unsigned char* texts[LANES]
    cdef unsigned char* outs[LANES]
    cdef unsigned char spare[32]
    cdef long long blocks[LANES]
    cdef unsigned char* room
    cdef long long each
    cdef Py_ssize_t start
    cdef int k, taken
    if n == 0:
        return 0
    qsort(parts, n, sizeof(Part), by_size)
    each = 64 * sha256_blocks(parts[n - 1].size)
    room = <unsigned char*>malloc(LANES * each)
    if room == NULL:
        return -1
    start = 0
    while start < n:
        taken = <int>min(n - start, <Py_ssize_t>LANES)
        for k in range(LANES):
            if k < taken:
                texts[k] = room + k * each
                written(&parts[start + k], texts[k])
                blocks[k] = sha256_blocks(parts[start + k].size)
                outs[k] = parts[start + k].out
            else:
                texts[k], blocks[k], outs[k] = texts[0], 1, spare
        sha256_lanes(texts, blocks, outs)
        start += LANES
    free(room)
    return 0


def digests(commits):
    """The raw digest of each commit."""
    cdef list many = list(commits)
    cdef Py_ssize_t n = len(many)
    cdef list held = []
    cdef list found = []
    cdef Py_ssize_t i
    cdef Part* parts = <Part*>malloc(max(n, 1) * sizeof(Part))
    cdef Part* part
    cdef bytes header, body, out
    cdef int failed
    if parts == NULL:
        raise MemoryError
    try:
        for i in range(n):
            subject = many[i].subject
            header = many[i].header
            body = many[i].body
            out = PyBytes_FromStringAndSize(NULL, 32)
            part = &parts[i]
            part.subject = PyUnicode_AsUTF8AndSize(subject, &part.subject_size)
            part.header, part.header_size = PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header)
            part.body, part.body_size = PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
            part.size = 6 + part.subject_size + part.header_size + part.body_size
            part.out = <unsigned char*>PyBytes_AS_STRING(out)
            # What is looked at without the lock stays alive until it is done.
            held.append((subject, header, body))
            found.append(out)
        with nogil:
            failed = digest_all(parts, n)
        if failed:
            raise MemoryError
    finally:
        free(parts)
    return found


def roots(bytes root not None, digests):
    """The root after each commit."""
    cdef list found = []
    cdef unsigned char text[64]
    cdef bytes digest, out
    if PyBytes_GET_SIZE(root) != 32:
        raise ValueError("a root has 32 bytes")
    memcpy(text, PyBytes_AS_STRING(root), 32)
    for digest in digests:
        if digest is None or PyBytes_GET_SIZE(digest) != 32:
            raise ValueError("a digest has 32 bytes")
        memcpy(text + 32, PyBytes_AS_STRING(digest), 32)
        out = PyBytes_FromStringAndSize(NULL, 32)
        sha256_of_64(text, <unsigned char*>PyBytes_AS_STRING(out))
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
