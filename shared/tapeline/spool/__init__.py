"""Measurements on the disk of whoever takes them, until a service has them: written without a system call.

A spool is a folder of one attempt of one run:

* `spool.json`: whose points these are, written once and replaced as a whole,
* `tags`: one line a tag, in the order of their numbers, each with its CRC-32,
* `<first record>.points`: files of fixed records, mapped into memory and given their whole size in advance,
* `end.json`: how the attempt ended, when that could not be said in time.

Every point is one record: number, tag, kind, step, value, time and a CRC-32. Once a record is written, killing the
process loses nothing of it; a file is removed when the service has all that is in it.

Reading order: `record.py`, `writer.py`, `reader.py`.
"""
