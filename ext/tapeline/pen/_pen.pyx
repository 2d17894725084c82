"""The one place where records of points are written.

A record is 36 bytes: number u32, tag u16, kind u8 (1 float, 2 int), 0, step i64, value f64 or i64, time in us i64,
and the CRC-32 of those 32 bytes. All of it happens under the interpreter's lock, so places are handed out once.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_GetItem, PyDict_Next
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_CheckExact
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_CheckExact
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

cdef int64_t MAX_STEP = 9007199254740992
cdef int SIZE = 36
cdef int BODY = 32

cdef uint32_t TABLE[8][256]


cdef void _fill() noexcept:
    cdef uint32_t value
    cdef int i, j
    for i in range(256):
        value = i
        for j in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        TABLE[0][i] = value
    for i in range(256):
        for j in range(1, 8):
            TABLE[j][i] = (TABLE[j - 1][i] >> 8) ^ TABLE[0][TABLE[j - 1][i] & 0xFF]


_fill()


cdef inline uint32_t crc_of(const uint8_t* data) noexcept nogil:
    """The CRC-32 of the 32 bytes of a record, eight at a time."""
    cdef uint32_t crc = <uint32_t>-1
    cdef uint32_t a, b
    cdef int i
    for i in range(0, 32, 8):
        a = crc ^ (data[i] | (<uint32_t>data[i + 1] << 8) | (<uint32_t>data[i + 2] << 16) | (<uint32_t>data[i + 3] << 24))
        b = data[i + 4] | (<uint32_t>data[i + 5] << 8) | (<uint32_t>data[i + 6] << 16) | (<uint32_t>data[i + 7] << 24)
        crc = (
            TABLE[7][a & 0xFF] ^ TABLE[6][(a >> 8) & 0xFF] ^ TABLE[5][(a >> 16) & 0xFF] ^ TABLE[4][a >> 24]
            ^ TABLE[3][b & 0xFF] ^ TABLE[2][(b >> 8) & 0xFF] ^ TABLE[1][(b >> 16) & 0xFF] ^ TABLE[0][b >> 24]
        )
    return ~crc


cdef inline int64_t now_us() noexcept nogil:
    cdef timespec at
    clock_gettime(CLOCK_REALTIME, &at)
    return <int64_t>at.tv_sec * 1000000 + at.tv_nsec // 1000


@cython.final
cdef class Pen:
    """Writes the records of one spool, file after file.

    Parameters
    ----------
    tags : the number of each tag that is known; filled by whoever keeps the tag file
    slow : called as `slow(values, step, phase)` with what is not a plain number of a known tag
    """

    cdef Py_buffer view
    cdef bint is_open
    cdef uint8_t* memory
    cdef uint32_t first
    cdef uint32_t records
    cdef uint32_t taken
    cdef int64_t step
    cdef dict tags
    cdef object slow

    def __cinit__(self, dict tags, slow):
        self.tags = tags
        self.slow = slow
        self.is_open = False
        self.memory = NULL
        self.first = 1
        self.step = 0

    def __dealloc__(self):
        if self.is_open:
            PyBuffer_Release(&self.view)

    @property
    def end(self):
        """The number that the next record will have."""
        return self.first + self.taken

    @property
    def last_step(self):
        """The step of the last log of which something was taken."""
        return self.step

    def told(self, int64_t step):
        """Something was measured at a step, wherever it was written."""
        self.step = step

    @property
    def is_full(self):
        """Whether there is no place for a record."""
        return self.memory == NULL or self.taken >= self.records

    def turn(self, memory, uint32_t records):
        """Go on in the memory of another file with so many places, or in none; numbers go on."""
        cdef Py_buffer view
        if memory is not None:
            PyObject_GetBuffer(memory, &view, PyBUF_WRITABLE | PyBUF_SIMPLE)
            if view.len < <Py_ssize_t>records * SIZE:
                PyBuffer_Release(&view)
                raise ValueError("the memory is shorter than its records")
        if self.is_open:
            PyBuffer_Release(&self.view)
        self.first += self.taken
        self.taken = 0
        self.is_open = memory is not None
        if memory is None:
            self.memory = NULL
            self.records = 0
            return
        self.view = view
        self.memory = <uint8_t*>view.buf
        self.records = records

    def now(self):
        """The time in whole microseconds."""
        return now_us()

    def put(self, uint16_t tag, int64_t step, value, int64_t time_us):
        """Write one record; False when there is no place for it. An int beyond 2**53 becomes a float."""
        cdef double number
        cdef int64_t whole
        cdef int overflow = 0
        if self.memory == NULL or self.taken >= self.records:
            return False
        if PyLong_CheckExact(value):
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow and -MAX_STEP <= whole <= MAX_STEP:
                self.write(tag, 2, step, &whole, time_us)
                return True
            try:
                number = float(value)
            except OverflowError:
                number = float("inf") if value > 0 else float("-inf")
        else:
            number = value
        self.write(tag, 1, step, &number, time_us)
        return True

    cdef inline void write(self, uint16_t tag, uint8_t kind, int64_t step, const void* value, int64_t time_us) noexcept:
        cdef uint8_t* at = self.memory + <Py_ssize_t>self.taken * SIZE
        cdef uint32_t number = self.first + self.taken
        cdef uint32_t crc
        self.taken += 1
        memcpy(at, &number, 4)
        memcpy(at + 4, &tag, 2)
        at[6] = kind
        at[7] = 0
        memcpy(at + 8, &step, 8)
        memcpy(at + 16, value, 8)
        memcpy(at + 24, &time_us, 8)
        crc = crc_of(at)
        memcpy(at + BODY, &crc, 4)

    def log(self, values, step, phase=None):
        """Write a record for each plain number of a known tag; the rest is left to `slow`."""
        cdef Py_ssize_t place = 0
        cdef PyObject* key = NULL
        cdef PyObject* value = NULL
        cdef PyObject* number
        cdef int64_t at, whole, now
        cdef double real
        cdef int overflow = 0
        cdef bint is_taken = False
        cdef dict left = None
        if phase is not None or self.memory == NULL or type(values) is not dict or not PyLong_CheckExact(step):
            self.slow(values, step, phase)
            return
        at = PyLong_AsLongLongAndOverflow(step, &overflow)
        if overflow or at < 0 or at > MAX_STEP:
            self.slow(values, step, phase)
            return
        now = now_us()
        while PyDict_Next(values, &place, &key, &value):
            if PyUnicode_CheckExact(<object>key) and self.taken < self.records:
                number = PyDict_GetItem(self.tags, <object>key)
                if number != NULL:
                    if PyFloat_CheckExact(<object>value):
                        real = PyFloat_AS_DOUBLE(<object>value)
                        self.write(<uint16_t>(<object>number), 1, at, &real, now)
                        is_taken = True
                        continue
                    if PyLong_CheckExact(<object>value):
                        whole = PyLong_AsLongLongAndOverflow(<object>value, &overflow)
                        if not overflow and -MAX_STEP <= whole <= MAX_STEP:
                            self.write(<uint16_t>(<object>number), 2, at, &whole, now)
                            is_taken = True
                            continue
                        overflow = 0
            if left is None:
                left = {}
            left[<object>key] = <object>value
        # What is left may be refused as a whole: whoever takes some of it says so.
        if is_taken or left is None:
            self.step = at
        if left is not None:
            self.slow(left, step, None)
