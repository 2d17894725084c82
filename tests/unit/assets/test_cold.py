"""Cold copies: smaller, equal in content, and thawed to a file that maps into memory."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from tapeline.asset_files import AssetFile
from tapeline.assets.layout import write
from tapeline.cold import content_digest, pack, thaw
from tapeline.errors import TapelineError


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    n = 4000
    write(
        tmp_path / "hot.h5",
        attributes={"schema": "tapeline.asset/1", "rows": n},
        datasets={"x": np.repeat(np.arange(n, dtype=np.float32)[:, None], 8, axis=1), "none": np.empty((n, 0))},
        index={"part": np.zeros(n, np.uint8), "symbol": np.zeros(n, np.uint16)},
        meta={"spec": {"a": 1}},
        symbols=["SPY"],
    )
    return tmp_path / "hot.h5"


def test_a_cold_copy_equals_its_file_and_thaws_to_the_same(hot: Path, tmp_path: Path) -> None:
    pack(hot, tmp_path / "cold.h5")
    pack(hot, tmp_path / "again.h5")
    thaw(tmp_path / "cold.h5", tmp_path / "thawed.h5")
    assert content_digest(hot) == content_digest(tmp_path / "cold.h5") == content_digest(tmp_path / "thawed.h5")
    assert (tmp_path / "cold.h5").stat().st_size < hot.stat().st_size / 4
    one, other = (hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("cold.h5", "again.h5"))
    assert one == other
    mapped = AssetFile(tmp_path / "thawed.h5")
    assert isinstance(mapped.column("x"), np.memmap)
    assert mapped.meta("spec") == {"a": 1}
    np.testing.assert_array_equal(mapped.column("x"), AssetFile(hot).column("x"))
    # A cold copy is read too, only not as a memory map.
    np.testing.assert_array_equal(AssetFile(tmp_path / "cold.h5").read("x"), AssetFile(hot).read("x"))


def test_without_the_codec_a_cold_copy_names_what_to_install(
    hot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(TapelineError) as refused:
        pack(hot, tmp_path / "cold.h5")
    assert (refused.value.code, refused.value.hint) == ("codec_missing", "pip install 'tapeline[cold]'")
    assert not (tmp_path / "cold.h5").exists()
