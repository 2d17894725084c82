"""What is wrong with a build spec is told at its place, in a sentence, with what may have been meant."""

from __future__ import annotations

from typing import Any

import pytest

from tapeline.assets.asset.spec import parse
from tapeline.errors import TapelineError

SPEC: dict[str, Any] = {"tapes": ["demo"], "features": ["log_return_1min"], "labels": ["updown_5min"]}


@pytest.mark.parametrize(
    ("change", "pointer", "message", "hint"),
    [
        ({"sampling": {"kind": "evry"}}, "/sampling/kind",
         "kind must be one of 'every', 'cusum', 'at_times', got 'evry'", "did you mean 'every'"),
        ({"sampling": {"kind": "every", "sise": 3}}, "/sampling/sise", "there is no field 'sise'",
         "did you mean 'size'"),
        ({"tapes": [{"tape": "demo", "symbls": ["A"]}]}, "/tapes/0/symbls", "there is no field 'symbls'",
         "did you mean 'symbols'?"),
        ({"features": [{"name": "x", "componet": "rsi"}]}, "/features/0/component", "component is missing",
         "give component: it has no default"),
        ({"split": {"embrago": "auto"}}, "/split/embrago", "there is no field 'embrago'", "did you mean 'embargo'?"),
        ({"fetures": []}, "/fetures", "there is no field 'fetures'", "did you mean 'features'"),
        ({"range": {"from": "yesterday"}}, "/range/from", "'yesterday' is no date", "write YYYY-MM-DD, as 2013-10-07"),
        ({"features": []}, "/features", "features has 0 entries, needs at least 1", "name at least 1"),
        ({"missing": "ignore"}, "/missing", "missing must be 'drop', 'zero' or 'carry', got 'ignore'",
         "use 'drop', 'zero' or 'carry'"),
        ({"split": {"validation_fraction": -0.1}}, "/split/validation_fraction",
         "validation_fraction must be at least 0, got -0.1", "use a number at least 0"),
    ],
    ids=str,
)  # fmt: skip
def test_a_fault_is_told_at_its_place(change: dict[str, Any], pointer: str, message: str, hint: str) -> None:
    with pytest.raises(TapelineError) as refused:
        parse(SPEC | change)
    assert refused.value.code == "invalid"
    faults = {fault["pointer"]: (fault["message"], fault["hint"]) for fault in refused.value.data["errors"]}
    assert faults[pointer][0] == message
    assert faults[pointer][1].startswith(hint)
