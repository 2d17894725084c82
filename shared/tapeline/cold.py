"""Cold copies of asset files, for shipping and archiving: the same data sets in chunks, shuffled and compressed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tapeline.errors import TapelineError
from tapeline.security import hdf5

CHUNK_BYTES = 1024**2
LEVEL = 3


def zstd() -> Any:
    """How HDF5 is told to compress; once this was called, it can also read what is compressed so.

    Raises
    ------
    TapelineError
        `codec_missing` without the package that has the codec.
    """
    try:
        import hdf5plugin
    except ImportError as error:
        raise TapelineError(
            "a cold copy needs the codec zstd of HDF5", code="codec_missing", hint="pip install 'tapeline[cold]'"
        ) from error
    return hdf5plugin.Zstd(clevel=LEVEL)


def pack(source: Path, target: Path) -> None:
    """Write a cold copy of an asset file; equal content gives equal bytes with one version of the codec.

    Raises
    ------
    TapelineError
        `codec_missing`, `asset_refused`, `not_found`.
    """
    codec = zstd()
    with hdf5.open_asset(source) as hot, hdf5.create(target) as cold:
        _attributes(hot, cold)
        for name, item in hot.items():
            if isinstance(item, h5py.Group):
                folder = hdf5.add_group(cold, name)
                for each, dataset in item.items():
                    _packed(dataset, folder, each, codec)
            else:
                _packed(item, cold, name, codec)


def thaw(source: Path, target: Path) -> None:
    """Write a file that maps into memory from a cold copy: the same data sets, contiguous and aligned.

    Raises
    ------
    TapelineError
        `codec_missing`, `asset_refused`, `not_found`.
    """
    zstd()
    with hdf5.open_asset(source) as cold:

        def fill(contents: hdf5.Contents) -> None:
            _attributes(cold, contents.file)
            for name, item in cold.items():
                if isinstance(item, h5py.Group):
                    folder = hdf5.add_group(contents.file, name)
                    for each, dataset in item.items():
                        _attributes(dataset, contents.put(folder, each, dataset[()]))
                else:
                    _attributes(item, contents.put(contents.file, name, item[()]))

        hdf5.write(target, fill, alignment=4096)


def content_digest(path: Path) -> str:
    """SHA-256 over names, types, shapes and C-order bytes of every data set: equal for a file and its cold copy."""
    digest = hashlib.sha256()
    with hdf5.open_asset(path) as file:
        found: list[tuple[str, h5py.Dataset]] = []
        file.visititems(lambda name, item: found.append((name, item)) if isinstance(item, h5py.Dataset) else None)
        if any(dataset.chunks for _, dataset in found):
            zstd()
        for name, dataset in sorted(found, key=lambda each: each[0]):
            digest.update(f"{name}\x00{dataset.dtype.str}\x00{dataset.shape}\x00".encode())
            if dataset.size:
                digest.update(np.ascontiguousarray(dataset[()]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _packed(dataset: h5py.Dataset, parent: h5py.Group, name: str, codec: Any) -> None:
    values = dataset[()]
    if not values.size:
        _attributes(dataset, parent.create_dataset(name, data=values))
        return
    rows = max(1, min(len(values), CHUNK_BYTES // max(values[:1].nbytes, 1)))
    made = parent.create_dataset(name, data=values, chunks=(rows, *values.shape[1:]), shuffle=True, compression=codec)
    _attributes(dataset, made)


def _attributes(source: Any, target: Any) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value
