"""The walk over a foreign HDF5 file: every object is looked at before one byte of data is read.

Plain h5py follows external links, external storage and virtual data sets into any file of the host, loads
filter plug-ins, and makes arrays of whatever size a file declares. The walk refuses what is not on its list.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, NamedTuple

import h5py

from tapeline.errors import TapelineError

_h5: Any = h5py  # its compiled parts have no type stubs
h5a, h5d, h5g, h5l, h5o, h5s, h5t = _h5.h5a, _h5.h5d, _h5.h5g, _h5.h5l, _h5.h5o, _h5.h5s, _h5.h5t

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_DEPTH = 8
MAX_OBJECTS = 10_000
MAX_ATTRIBUTE = 64 * 1024
MAX_CHUNK = 64 * 1024 * 1024
_SLACK = 64 * 1024

_DEFLATE, _SHUFFLE, _FLETCHER32, _ZSTD = 1, 2, 3, 32015
_FILTER_NAMES = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 32000: "lzf", 32015: "zstd"}


@dataclass(frozen=True)
class Rules:
    """What a kind of file may hold."""

    code: str
    filters: frozenset[int]
    max_ratio: int
    max_declared: int
    allows_text_attributes: bool

    def refusal(self, path: str, reason: str) -> TapelineError:
        """The refusal of one object."""
        return TapelineError(
            f"{path}: {reason}",
            code=self.code,
            hint="write the file again from its data; it has something that is never read",
            data={"path": path},
        )


# Keras names its layers in text attributes of variable length; our own files have none.
ASSET = Rules("asset_refused", frozenset({_SHUFFLE, _ZSTD}), 200, 64 << 30, False)
WEIGHTS = Rules("model_refused", frozenset({_DEFLATE, _SHUFFLE, _FLETCHER32}), 4, 2 << 30, True)


class Found(NamedTuple):
    """A data set that passed: its path, shape, and bytes as declared."""

    path: str
    shape: tuple[int, ...]
    size: int


def check_signature(file: BinaryIO, rules: Rules, name: str) -> int:
    """The size of the file in bytes, when it begins as HDF5 and its end lies inside.

    Notes
    -----
    The end-of-file address stands in the superblock: at byte 40 of versions 0 and 1 (44 with the extra four
    bytes of version 1), at byte 28 of versions 2 and 3, where addresses have 8 bytes.
    """
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    head = file.read(96)
    file.seek(0)
    if not head.startswith(SIGNATURE):
        raise rules.refusal(name, "no HDF5 file")
    version = head[8] if len(head) == 96 else 255
    if version in (0, 1):
        offset_size, at = head[13], 40 + 4 * version
    elif version in (2, 3):
        offset_size, at = head[9], 28
    else:
        raise rules.refusal(name, "the superblock is damaged")
    if offset_size != 8:
        raise rules.refusal(name, f"addresses of {offset_size} bytes")
    if int.from_bytes(head[at : at + 8], "little") > size:
        raise rules.refusal(name, "the file is shorter than it says")
    return size


def walk(file: h5py.File, file_size: int, rules: Rules) -> list[Found]:
    """The data sets of a file that holds nothing but what the rules allow.

    Raises
    ------
    TapelineError
        With the code of the rules; `data["path"]` is the object.
    """
    found: list[Found] = []
    root = h5g.open(file.id, b"/")
    start = h5o.get_info(root)
    seen: set[object] = {(start.fileno, start.addr)}
    stored_total = declared_total = attributes = 0
    left: list[tuple[str, Any, int]] = [("/", root, 0)]
    while left:
        path, group, depth = left.pop()
        attributes += _check_attributes(path, group, rules)
        for raw in group:
            name = raw.decode("utf-8", "backslashreplace")
            inner = f"{path.rstrip('/')}/{name}"
            kind = group.links.get_info(raw).type
            if kind != h5l.TYPE_HARD:
                word = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
                raise rules.refusal(inner, f"{word.get(kind, 'a link of an unknown kind')} is not followed")
            if depth + 1 > MAX_DEPTH:
                raise rules.refusal(inner, f"nested deeper than {MAX_DEPTH}")
            item = h5o.open(group, raw)
            info = h5o.get_info(item)
            address = (info.fileno, info.addr)
            if address in seen:
                raise rules.refusal(inner, "a second name of an object")
            seen.add(address)
            if len(seen) + attributes > MAX_OBJECTS:
                raise rules.refusal(inner, f"more than {MAX_OBJECTS:,} objects")
            if isinstance(item, h5g.GroupID):
                left.append((inner, item, depth + 1))
                continue
            if not isinstance(item, h5d.DatasetID):
                raise rules.refusal(inner, "neither a group nor a data set")
            attributes += _check_attributes(inner, item, rules)
            declared, stored, shape = _check_data_set(inner, item, rules)
            declared_total += declared
            stored_total += stored
            if stored_total > file_size:
                raise rules.refusal(inner, "data sets claim more bytes than the file has")
            if declared_total > rules.max_declared:
                raise rules.refusal(inner, f"the file declares more than {rules.max_declared >> 30} GiB")
            found.append(Found(inner, shape, declared))
    return found


def _check_data_set(path: str, item: Any, rules: Rules) -> tuple[int, int, tuple[int, ...]]:
    # The creation properties come first: asking a virtual data set for its space may open its sources.
    creation = item.get_create_plist()
    if creation.get_layout() == h5d.VIRTUAL:
        raise rules.refusal(path, "a virtual data set reads other files")
    if creation.get_external_count():
        raise rules.refusal(path, "external storage reads other files")
    for i in range(creation.get_nfilters()):
        code = creation.get_filter(i)[0]
        if code not in rules.filters:
            raise rules.refusal(path, f"filter {_FILTER_NAMES.get(code, code)} is not read")
    width = _check_type(path, item.get_type(), rules, allows_text=False)
    space = item.get_space()
    shape = tuple(int(size) for size in space.get_simple_extent_dims() or ())
    is_empty = space.get_simple_extent_type() == h5s.NULL
    declared = 0 if is_empty else prod(shape) * width
    stored = int(item.get_storage_size())
    if creation.get_layout() == h5d.CHUNKED and prod(creation.get_chunk()) * width > MAX_CHUNK:
        raise rules.refusal(path, f"chunks of more than {MAX_CHUNK >> 20} MiB")
    slack = _SLACK if rules is ASSET else 1 << 20
    if declared > rules.max_ratio * stored + slack:
        raise rules.refusal(path, f"{declared:,} bytes declared, {stored:,} stored")
    return declared, stored, shape


def _check_attributes(path: str, item: Any, rules: Rules) -> int:
    count = int(h5a.get_num_attrs(item))
    if count > MAX_OBJECTS:
        raise rules.refusal(path, f"more than {MAX_OBJECTS:,} attributes")
    for i in range(count):
        attribute = h5a.open(item, index=i)
        where = f"{path}@{attribute.name.decode('utf-8', 'backslashreplace')}"
        width = _check_type(where, attribute.get_type(), rules, allows_text=rules.allows_text_attributes)
        shape = attribute.shape or ()
        if prod(shape) * width > MAX_ATTRIBUTE:
            raise rules.refusal(where, f"more than {MAX_ATTRIBUTE >> 10} KiB")
    return count


def _check_type(path: str, kind: Any, rules: Rules, *, allows_text: bool) -> int:
    """The bytes of one value of an allowed type."""
    what = kind.get_class()
    if what in (h5t.INTEGER, h5t.FLOAT):
        if kind.get_size() > 8:
            raise rules.refusal(path, f"numbers of {kind.get_size()} bytes")
        return int(kind.get_size())
    if what == h5t.STRING:
        if kind.is_variable_str() and not allows_text:
            raise rules.refusal(path, "texts of variable length are not read")
        return int(kind.get_size())
    names = {
        h5t.VLEN: "variable length",
        h5t.REFERENCE: "reference",
        h5t.COMPOUND: "compound",
        h5t.OPAQUE: "opaque",
        h5t.ENUM: "enum",
        h5t.ARRAY: "array",
    }
    raise rules.refusal(path, f"values of type {names.get(what, what)} are not read")
