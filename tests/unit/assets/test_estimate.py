"""How large an asset would become is known before it is built, and never too small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tapeline.assets import estimate
from tapeline.assets.asset.instances import instances_of
from tapeline.assets.asset.spec import KnownTape, parse, resolve
from tapeline.assets.build import build
from tapeline.assets.components import registry
from tapeline.errors import TapelineError
from tapeline.tape.prepared import PreparedTape
from tapeline.tape.view import OpenTape

WIDE = {"name": "w", "component": "bars", "params": {"count": 50}}
SPEC: dict[str, Any] = {"tapes": ["demo"], "features": [WIDE, "log_return_1min"], "labels": ["updown_5min"]}


def resolved(tape: PreparedTape, **change: Any) -> dict[str, Any]:
    known = KnownTape("t1", "demo", tape.content_sha256, tuple(tape.symbols), tuple(tape.days), "SIM")
    return resolve(parse(SPEC | change), [known], registry()).spec


def without_days(tape: PreparedTape) -> dict[str, OpenTape]:
    def path_of(digest: str) -> Path:
        raise AssertionError("a day was read")

    return {"t1": OpenTape(tape.manifest, path_of)}


@pytest.mark.parametrize(
    "sampling",
    [
        {"unit": "min", "size": 1},
        {"unit": "min", "size": 7},
        {"unit": "day", "size": 1},
        {"unit": "tick", "size": 40},
        {"kind": "at_times", "times": ["10:00", "15:00"]},
        {"kind": "cusum", "threshold": 0.0005},
    ],
    ids=str,
)
def test_no_asset_has_more_rows_than_were_reckoned_with(prepared: PreparedTape, sampling: dict[str, Any]) -> None:
    spec = resolved(prepared, sampling=sampling)
    rows = estimate.rows(spec, without_days(prepared))
    trades = sum(int(day["rows"]) for day in prepared.manifest["days"])
    assert 0 < rows <= estimate.most_rows(spec, len(prepared.days) * len(prepared.symbols), trades)
    if sampling == {"unit": "min", "size": 1}:
        assert rows == 390 * len(prepared.days)


@pytest.mark.parametrize("layout", ["indexed", "materialised"])
def test_the_size_is_about_that_of_the_files(prepared: PreparedTape, tmp_path: Path, layout: str) -> None:
    spec = resolved(prepared, layout=layout)
    features, labels = (instances_of(spec[kind], registry()) for kind in ("features", "labels"))
    built = build(
        spec,
        name="demo",
        team="contoso",
        spec_digest="0" * 64,
        tapes={"t1": OpenTape(prepared.manifest, prepared.path_of)},
        folder=tmp_path,
        components=registry(),
        tell=lambda *progress: None,
    )
    rows = sum(file.rows for file in built.files)
    reckoned = estimate.rows(spec, without_days(prepared)) * estimate.row_bytes(spec, features, labels)
    # Rows that are dropped were reckoned with; what a grid holds, and the ends of pages, were not.
    assert reckoned >= rows * estimate.row_bytes(spec, features, labels)
    assert reckoned < 1.3 * sum(file.path.stat().st_size for file in built.files)


def test_what_would_be_too_large_is_refused_by_its_field(prepared: PreparedTape) -> None:
    wide = [WIDE | {"name": f"w{i}", "params": {"count": 10_000, "shift": i}} for i in range(250)]
    spec = resolved(prepared, features=wide, layout="materialised")
    features, labels = (instances_of(spec[kind], registry()) for kind in ("features", "labels"))
    with pytest.raises(
        TapelineError, match="/sampling: the asset would hold about 116 GiB, the limit is 50"
    ) as refused:
        estimate.check(spec, without_days(prepared), features, labels)
    assert refused.value.code == "too_large"
    assert refused.value.hint
    # The same windows as places in a grid are few bytes.
    small = resolved(prepared, features=wide)
    assert small["layout"] == "indexed"
    estimate.check(small, without_days(prepared), features, labels)
