"""The only door to h5py: every file of ours is made and opened here.

`create` makes a file of our own, `open_own` opens one whose digest has been verified. A file that came
from elsewhere can point into any file of the host (external links, external storage, virtual data sets),
so it is never opened by these two, but by `open_asset`, which looks at every object first.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import h5py

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
