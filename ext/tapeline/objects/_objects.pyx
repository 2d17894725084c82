"""Objects made column by column. `reference.py` says the same in plain Python.

A step of the interpreter for each field of a million objects takes most of the time of making them. Every call here
is one of Python's own, so that what is made is what Python makes.
"""

from cpython.datetime cimport PyDateTimeAPI, import_datetime
from cpython.dict cimport PyDict_Copy, PyDict_SetItem
from cpython.list cimport PyList_GET_ITEM, PyList_New, PyList_SET_ITEM
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_1BYTE_DATA, PyUnicode_New
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy

import_datetime()

cdef extern from "Python.h":
    PyTypeObject* Py_TYPE(object)
    PyTypeObject PyBaseObject_Type

ctypedef int (*Setting)(object, object, object) except -1

cdef int64_t DAY = 86_400_000_000
cdef int64_t DAYS_TO_1970 = 719_162
cdef int64_t FIRST = -62_135_596_800_000_000
cdef int64_t LAST = 253_402_300_799_999_999
cdef const uint8_t* DIGITS = b"0123456789abcdef"


def made(kind, slots, names, columns, Py_ssize_t count):
    """Objects whose fields are columns, made without their class's own ways: nothing is checked.

    Parameters
    ----------
    kind : the class; it makes its objects as `object` does
    slots : by its descriptor, what every object has there
    names, columns : the fields of `__dict__`, in their order; a column is a list, or what all objects share
    count : how many objects
    """
    cdef dict template = {}
    cdef dict fields
    cdef list varying = [], lists = [], descriptors = [], values = []
    cdef list found, column
    cdef Py_ssize_t i, j, k, many
    cdef object one, value, nothing = ()
    if not isinstance(kind, type):
        raise TypeError(f"{kind!r} is no class")
    for name, given in zip(names, columns, strict=True):
        template[name] = None if type(given) is list else given
        if type(given) is list:
            if len(given) != count:
                raise ValueError(f"a column of {len(given)} for {count} objects")
            varying.append(name)
            lists.append(given)
    place = next(base.__dict__["__dict__"] for base in kind.__mro__ if "__dict__" in base.__dict__)
    for slot, value in slots.items():
        descriptors.append(slot)
        values.append(value)
    for slot in (place, *descriptors):
        if Py_TYPE(slot).tp_descr_set == NULL:
            raise TypeError(f"{slot!r} takes no value")
    many = len(lists)
    k = len(descriptors)
    found = PyList_New(count)
    for i in range(count):
        one = PyBaseObject_Type.tp_new(<type>kind, <PyObject*>nothing, NULL)
        Py_INCREF(one)
        PyList_SET_ITEM(found, i, one)
        fields = PyDict_Copy(template)
        for j in range(many):
            column = <list>lists[j]
            PyDict_SetItem(fields, <object>PyList_GET_ITEM(varying, j), <object>PyList_GET_ITEM(column, i))
        (<Setting>Py_TYPE(place).tp_descr_set)(place, one, fields)
        for j in range(k):
            (<Setting>Py_TYPE(<object>PyList_GET_ITEM(descriptors, j)).tp_descr_set)(
                <object>PyList_GET_ITEM(descriptors, j), one, <object>PyList_GET_ITEM(values, j)
            )
    return found


def moments(const int64_t[::1] times):
    """The UTC times that microseconds since 1970 stand for; `times` is an array of int64."""
    cdef Py_ssize_t i, count = times.shape[0]
    cdef int64_t at, day, seen = DAY, left, era, year, of_year, of_era, month
    cdef int y = 1970, m = 1, d = 1, second
    cdef list found = PyList_New(count)
    cdef object one
    for i in range(count):
        at = times[i]
        if at < FIRST or at > LAST:
            raise OverflowError("date value out of range")
        # Python rounds towards minus infinity; so does this, with C's division.
        day = at // DAY if at >= 0 else -((DAY - 1 - at) // DAY)
        left = at - day * DAY
        if day != seen:
            seen = day
            # Howard Hinnant, "chrono-compatible low-level date algorithms": eras of 400 years that begin in March.
            day += 719_468
            era = (day if day >= 0 else day - 146_096) // 146_097
            of_era = day - era * 146_097
            year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
            of_year = of_era - (365 * year + year // 4 - year // 100)
            month = (5 * of_year + 2) // 153
            d = <int>(of_year - (153 * month + 2) // 5 + 1)
            m = <int>(month + 3 if month < 10 else month - 9)
            y = <int>(year + era * 400 + (1 if m <= 2 else 0))
        second = <int>(left // 1_000_000)
        one = PyDateTimeAPI.DateTime_FromDateAndTime(
            y, m, d, second // 3600, second // 60 % 60, second % 60, <int>(left % 1_000_000),
            <object>PyDateTimeAPI.TimeZone_UTC, PyDateTimeAPI.DateTimeType,
        )
        Py_INCREF(one)
        PyList_SET_ITEM(found, i, one)
    return found


def texts(str head, const int64_t[::1] times):
    """`head` with the low 48 bits of each number after it, in twelve hexadecimal digits; `times` is int64."""
    cdef bytes start = head.encode("ascii")
    cdef Py_ssize_t i, count = times.shape[0], size = len(start)
    cdef const uint8_t* begins = start
    cdef uint8_t* at
    cdef int64_t left
    cdef int j
    cdef list found = PyList_New(count)
    cdef object one
    for i in range(count):
        one = PyUnicode_New(size + 12, 127)
        at = <uint8_t*>PyUnicode_1BYTE_DATA(one)
        memcpy(at, begins, size)
        left = times[i]
        for j in range(size + 11, size - 1, -1):
            at[j] = DIGITS[left & 15]
            left >>= 4
        Py_INCREF(one)
        PyList_SET_ITEM(found, i, one)
    return found
