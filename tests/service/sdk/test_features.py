"""`tapeline feature save | ls | rm`, and the functions beneath, against a service's answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tapeline import sdk as tl
from tapeline.cli.app import run
from tapeline.errors import CODES
from tapeline.sdk.client import Client

VIEW: dict[str, Any] = {
    "name": "90_1daybar_lp%", "version": 2, "kind": "feature", "component": "bars", "component_version": 1,
    "params": {"count": 90}, "saved_at": "2024-01-02T00:00:00Z", "user": "ann",
}  # fmt: skip


def test_a_feature_is_saved_listed_and_removed(
    client: Client, service: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answers["assets.save_feature"] = lambda body: VIEW | {"params": body["params"]}
    service.answers["assets.features"] = lambda body: {"components": [], "features": [], "labels": [], "saved": [VIEW]}
    service.answers["assets.remove_feature"] = lambda body: VIEW
    arguments = ["feature", "save", "90_1daybar_lp%", "bars", "-p", "count=90", "-p", "norm=none", "--new", "--json"]
    assert run(arguments) == 0
    assert json.loads(capsys.readouterr().out)["params"] == {"count": 90, "norm": "none"}
    (sent,) = service.sent("assets.save_feature")
    assert (sent["name"], sent["component"], sent["expected_version"]) == ("90_1daybar_lp%", "bars", 0)
    (found,) = tl.get_features(client.team)
    assert (found.name, found.version, found.kind) == ("90_1daybar_lp%", 2, "feature")
    assert run(["feature", "ls"]) == 0
    assert "90_1daybar_lp%" in capsys.readouterr().out
    assert run(["feature", "rm", "90_1daybar_lp%", "--yes"]) == 0
    assert service.sent("assets.remove_feature")[0]["name"] == "90_1daybar_lp%"


def test_a_parameter_without_a_value_is_wrong_usage(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["feature", "save", "x", "bars", "-p", "count"]) == 2
    assert "is not key=value" in capsys.readouterr().err
    assert CODES["invalid"].exit != 2
