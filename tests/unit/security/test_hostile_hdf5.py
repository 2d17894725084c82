"""Hostile HDF5 files: each is refused by the object that is wrong, and no other file is opened."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tapeline.errors import TapelineError
from tapeline.security.hdf5 import create, open_asset, weight_shapes

Write = Callable[[Any, Path], None]


def virtual(file: Any, secret: Path) -> None:
    layout = h5py.VirtualLayout((10,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "x", (10,))
    file.create_virtual_dataset("a", layout)


def deep(file: Any, secret: Path) -> None:
    for _ in range(20):
        file = file.create_group("g")


def circle(file: Any, secret: Path) -> None:
    file.create_group("a")["b"] = file["/"]


def second_name(file: Any, secret: Path) -> None:
    file.create_dataset("a", data=np.zeros(3))
    file["b"] = file["a"]


def named_type(file: Any, secret: Path) -> None:
    file["t"] = np.dtype("f4")


HOSTILE: list[tuple[str, Write, str]] = [
    ("external link", lambda f, s: f.__setitem__("a", h5py.ExternalLink(str(s), "/")), "/a: an external link"),
    ("soft link", lambda f, s: f.__setitem__("a", h5py.SoftLink("/b")), "/a: a soft link"),
    ("external storage", lambda f, s: f.create_dataset("a", (6,), "u1", external=[(str(s), 0, 6)]), "external storage"),
    ("virtual data set", virtual, "/a: a virtual data set"),
    ("variable text", lambda f, s: f.create_dataset("a", data=["x"], dtype=h5py.string_dtype()), "variable length"),
    ("variable array", lambda f, s: f.create_dataset("a", (2,), h5py.vlen_dtype("i4")), "variable length"),
    ("reference", lambda f, s: f.create_dataset("a", (2,), h5py.ref_dtype), "reference"),
    ("compound", lambda f, s: f.create_dataset("a", data=np.zeros(2, [("x", "f4")])), "compound"),
    ("enum", lambda f, s: f.create_dataset("a", (2,), h5py.enum_dtype({"A": 1})), "enum"),
    ("opaque", lambda f, s: f.create_dataset("a", data=np.zeros(2, "V8")), "opaque"),
    ("named type", named_type, "/t: neither a group nor a data set"),
    ("huge", lambda f, s: f.create_dataset("a", (10**12,), "f4"), "4,000,000,000,000 bytes declared, 0 stored"),
    ("huge in chunks", lambda f, s: f.create_dataset("a", (10**12,), "f4", chunks=(1000,)), "bytes declared, 0 stored"),
    ("huge chunk", lambda f, s: f.create_dataset("a", (1,), "f4", chunks=(10**9,), maxshape=(None,)), "chunks of more"),
    ("gzip", lambda f, s: f.create_dataset("a", data=np.zeros(99), compression="gzip"), "filter gzip"),
    ("lzf", lambda f, s: f.create_dataset("a", data=np.zeros(99), compression="lzf"), "filter lzf"),
    ("deep", deep, "nested deeper than 8"),
    ("circle", circle, "/a/b: a second name"),
    ("second name", second_name, "a second name"),
    ("text attribute", lambda f, s: f.attrs.__setitem__("x", "y"), "/@x: texts of variable length"),
]


@pytest.mark.parametrize(("write", "reason"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_hostile_file_is_refused_by_the_object(write: Write, reason: str, libver: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 10)
    path = tmp_path / "asset.h5"
    with h5py.File(path, "w", libver=libver) as file:
        write(file, secret)
    with pytest.raises(TapelineError, match=reason) as caught:
        open_asset(path)
    assert caught.value.code == "asset_refused"
    assert caught.value.data["path"].startswith("/")
    h5py.File(path, "r+").close()  # nothing was left open


def test_a_file_of_many_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "asset.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(10_001):
            file.create_group(str(i))
    with pytest.raises(TapelineError, match="more than 10,000 objects"):
        open_asset(path)


def test_a_good_file_opens_with_its_data(tmp_path: Path) -> None:
    path = tmp_path / "asset.h5"
    with create(path) as file:
        file.create_dataset("ret", data=np.arange(6, dtype="f4").reshape(3, 2))
        file.attrs["schema"] = np.bytes_(b"tapeline.asset/1")
    with open_asset(path) as file:
        np.testing.assert_array_equal(np.asarray(file["ret"]), np.arange(6, dtype="f4").reshape(3, 2))


def test_bytes_that_are_no_hdf5_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "asset.h5"
    for content in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + b"\xff" * 200):
        path.write_bytes(content)
        with pytest.raises(TapelineError) as caught:
            open_asset(path)
        assert caught.value.code == "asset_refused"


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "asset.h5"
    with create(path) as file:
        file.create_dataset("a", data=np.arange(300.0))
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(TapelineError) as caught:
            open_asset(path)
        assert caught.value.code == "asset_refused"


def test_a_file_with_damaged_bytes_never_raises_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "asset.h5"
    with create(path) as file:
        file.create_dataset("a", data=np.arange(30.0))
    whole = path.read_bytes()
    rng = np.random.default_rng(11)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[int(rng.integers(0, min(len(whole), 1024)))] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(TapelineError):
            open_asset(path).close()


def test_a_missing_file_and_a_link_to_one_are_not_found(tmp_path: Path) -> None:
    target = tmp_path / "target.h5"
    create(target).close()
    (tmp_path / "link.h5").symlink_to(target)
    for name in ("missing.h5", "link.h5"):
        with pytest.raises(TapelineError) as caught:
            open_asset(tmp_path / name)
        assert caught.value.code == "not_found"


def test_a_weights_file_may_have_names_as_text_but_no_links(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_group("vars").attrs["name"] = "d1"
        file.create_dataset("vars/0", data=np.zeros((3, 2), "f4"), compression="gzip")
    with path.open("rb") as raw:
        assert weight_shapes(raw) == {"/vars/0": (3, 2)}
    with h5py.File(path, "a") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "/")
    with path.open("rb") as raw, pytest.raises(TapelineError, match="/x: an external link") as caught:
        weight_shapes(raw)
    assert caught.value.code == "model_refused"
