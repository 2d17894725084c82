"""The only door to h5py: every file of ours is made and opened here.

`create` makes a file of our own, `open_own` opens one whose digest has been verified. A file that came
from elsewhere can point into any file of the host (external links, external storage, virtual data sets),
so it is never opened by these two, but by `open_asset`, which looks at every object first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from tapeline.errors import TapelineError
from tapeline.security.walk import ASSET, WEIGHTS, check_signature, walk

# Older and newer libraries write the same bytes within these bounds.
LIBVER = ("v110", "v110")


def create(path: str | Path, *, alignment: int = 1) -> h5py.File:
    """A new, empty HDF5 file, opened for writing; equal contents give equal bytes.

    Parameters
    ----------
    alignment : data of at least this many bytes begins at a multiple of it

    Notes
    -----
    Object times are not tracked, so that two writes of one content are byte-identical: h5py leaves them out
    of data sets, the root group is made without them here, and other groups are made by `add_group`.
    """
    creation, access = _how_we_write(alignment)
    handle = h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)
    return h5py.File(handle)


def image(fill: Callable[[h5py.File], None]) -> bytes:
    """The bytes of a file that `fill` has filled in memory; equal contents give equal bytes.

    A file that is small enough should be made so: when the disk is full, HDF5 cannot close a file that it
    writes itself, and the process dies of it.
    """
    creation, access = _how_we_write(1)
    held = BytesIO()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, held)
    handle = h5py.h5f.create(b"image", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)
    with h5py.File(handle) as file:
        fill(file)
    return held.getvalue()


class Contents:
    """A file that is being laid out: its objects are made by HDF5, its data is written beside, by `write`."""

    def __init__(self, file: h5py.File) -> None:
        self.file = file
        self.pieces: list[tuple[int, NDArray[Any]]] = []

    def put(self, parent: h5py.Group, name: str, values: NDArray[Any]) -> h5py.Dataset:
        """A contiguous data set of these values, little-endian; it holds them once the file is written."""
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_layout(h5py.h5d.CONTIGUOUS)
        how.set_obj_track_times(False)
        # Its place is fixed at once, and nothing is written there.
        how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        kind = h5py.h5t.py_create(little.dtype, logical=True)
        made = h5py.h5d.create(parent.id, name.encode(), kind, h5py.h5s.create_simple(little.shape), dcpl=how)
        place = made.get_offset()
        if place is not None and little.size:
            self.pieces.append((int(place), little))
        return h5py.Dataset(made)


def write(path: str | Path, fill: Callable[[Contents], None], *, alignment: int = 1) -> None:
    """Write a file of contiguous data sets; equal contents give equal bytes.

    Parameters
    ----------
    fill : makes groups, attributes, and data sets by `Contents.put`
    alignment : data of at least this many bytes begins at a multiple of it

    Raises
    ------
    OSError
        The file cannot be written, as when the disk is full; nothing of it is left.

    Notes
    -----
    HDF5 lays the file out in memory and never touches the disk: a full disk, at which it would end the process,
    is an ordinary error here. The room is taken before the first byte is written.
    """
    creation, access = _how_we_write(alignment)
    held = _Sparse()
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, held)
    with h5py.File(h5py.h5f.create(b"layout", h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access)) as file:
        contents = Contents(file)
        fill(contents)
    size = max([held.size, *(place + values.nbytes for place, values in contents.pieces)])
    target = Path(path)
    try:
        with target.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, size)
            for place, page in sorted(held.pages.items()):
                out.seek(place)
                out.write(page[: size - place])
            for place, values in contents.pieces:
                out.seek(place)
                out.write(values.reshape(-1).view(np.uint8).data)
    except OSError:
        target.unlink(missing_ok=True)
        raise


class _Sparse:
    """A file in memory of which only pages that were written are held."""

    PAGE = 4096

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.size = 0
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        for start, stop, page, at in self._spans(len(into)):
            held = self.pages.get(page)
            into[start:stop] = held[at : at + stop - start] if held else bytes(stop - start)
        self._at += len(into)
        return len(into)

    def write(self, data: Any) -> int:
        source = memoryview(data).cast("B")
        for start, stop, page, at in self._spans(len(source)):
            self.pages.setdefault(page, bytearray(self.PAGE))[at : at + stop - start] = source[start:stop]
        self._at += len(source)
        self.size = max(self.size, self._at)
        return len(source)

    def flush(self) -> None:
        """Nothing is kept back."""

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def _spans(self, length: int) -> Iterator[tuple[int, int, int, int]]:
        done = 0
        while done < length:
            place = self._at + done
            page = place - place % self.PAGE
            stop = min(length, done + page + self.PAGE - place)
            yield done, stop, page, place - page
            done = stop


def _how_we_write(alignment: int) -> tuple[Any, Any]:
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_link_creation_order(0)
    creation.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_alignment(alignment, alignment)
    return creation, access


def add_group(parent: h5py.Group, name: str) -> h5py.Group:
    """A new group without object times, one level below `parent`.

    `parent.create_group` and paths like `"a/b"` in `create_dataset` would store the time of writing.
    """
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), gcpl=creation))


def open_own(path: str | Path) -> h5py.File:
    """A file that we wrote, opened for reading; the caller has verified its digest.

    Raises
    ------
    TapelineError
        `not_found` when there is no such file, `corrupt` when it is not HDF5.
    """
    file = Path(path)
    if not file.is_file():
        raise TapelineError(f"there is no file {file.name}", code="not_found", hint="fetch the artifact again")
    try:
        return h5py.File(file, "r", libver=LIBVER)
    except OSError as error:
        raise TapelineError(
            f"{file.name} is not a readable HDF5 file", code="corrupt", hint="fetch the artifact again"
        ) from error


def open_asset(path: str | Path) -> h5py.File:
    """A foreign asset file, opened for reading after every object in it was looked at.

    The caller closes it. Nothing outside the file is ever opened: see `tapeline.security.walk`.

    Raises
    ------
    TapelineError
        `not_found` when there is no such file, `asset_refused` with the object's path otherwise.
    """
    file = Path(path)
    if file.is_symlink() or not file.is_file():
        raise TapelineError(f"there is no file {file.name}", code="not_found", hint="name a regular file")
    with file.open("rb") as raw:
        size = check_signature(raw, ASSET, file.name)
    try:
        opened = h5py.File(file, "r")
    except (OSError, RuntimeError) as error:
        raise ASSET.refusal(file.name, "HDF5 cannot read it") from error
    try:
        walk(opened, size, ASSET)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        opened.close()
        raise ASSET.refusal(file.name, f"a damaged object ({type(error).__name__})") from error
    except TapelineError:
        opened.close()
        raise
    return opened


def legacy_model(path: str | Path) -> tuple[str, dict[str, list[Any]]]:
    """The config text of a Keras model in HDF5, and the weights of each layer in their order, after the walk.

    Raises
    ------
    TapelineError
        `model_refused`, with the object's path.
    """
    file = Path(path)
    with file.open("rb") as raw:
        size = check_signature(raw, WEIGHTS, file.name)
        try:
            with h5py.File(raw, "r") as opened:
                walk(opened, size, WEIGHTS)
                if "model_config" not in opened.attrs or "model_weights" not in opened:
                    raise WEIGHTS.refusal(file.name, "it holds weights, but no model")
                group: Any = opened["model_weights"]
                weights = {
                    layer: [group[layer][name][()] for name in _texts(group[layer], "weight_names")]
                    for layer in _texts(group, "layer_names")
                }
                return _text(opened.attrs["model_config"]), weights
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WEIGHTS.refusal(file.name, f"a damaged object ({type(error).__name__})") from error


def _texts(group: Any, name: str) -> list[str]:
    """The texts of an attribute, which Keras cuts into `name0`, `name1`, ... where it is long."""
    if name in group.attrs:
        return [_text(each) for each in group.attrs[name]]
    found: list[str] = []
    while f"{name}{len(found)}" in group.attrs and len(found) < 10_000:
        found.append(f"{name}{len(found)}")
    return [_text(each) for part in found for each in group.attrs[part]]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def weight_shapes(file: BinaryIO) -> dict[str, tuple[int, ...]]:
    """The shapes of all data sets of a Keras weights file by path, after the walk; nothing else is read.

    Raises
    ------
    TapelineError
        `model_refused`, with the object's path.
    """
    name = "model.weights.h5"
    size = check_signature(file, WEIGHTS, name)
    try:
        with h5py.File(file, "r") as opened:
            return {found.path: found.shape for found in walk(opened, size, WEIGHTS)}
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise WEIGHTS.refusal(name, f"a damaged object ({type(error).__name__})") from error
