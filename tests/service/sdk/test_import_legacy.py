"""Importing a model of Keras 2 through the SDK: converted before a byte is sent, refused by the name of its layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from tapeline import sdk as tl
from tapeline.sdk.client import Client
from tapeline.security import conversion

FILES = Path(__file__).parents[2] / "assets" / "models"


def test_a_hostile_model_is_refused_and_nothing_is_sent(service: Any, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    shutil.copyfile(FILES / "sequential.keras2.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][2].update(class_name="Lambda", config={"name": "pick", "function": ["4wEA", None]})
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(tl.LitVaultError) as refused:
        tl.import_model("contoso", str(path))
    cause: Any = refused.value.__cause__
    assert cause.code == "model_refused"
    assert "layer 'pick' (Lambda) cannot be loaded; use tapeline>SelectFields instead" in str(cause)
    assert service.sent("vault.begin_upload") == []


def test_what_is_sent_is_what_it_was_converted_to(
    service: Any, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def converted(source: Path, target: Path, *, replace: Any = None) -> None:
        assert (source.name, replace) == ("sequential.keras2.h5", {"a": {"class": "WindowNorm"}})
        target.write_bytes(b"converted")

    monkeypatch.setattr(conversion, "converted", converted)
    service.answers["vault.begin_upload"] = lambda body: {"complete": True, "received_bytes": body["size_bytes"]}
    service.answers["vault.import_model"] = lambda body: {"name": "new_model"}
    found = tl.import_model("contoso", str(FILES / "sequential.keras2.h5"), replace={"a": {"class": "WindowNorm"}})
    assert found.name == "new_model"
    assert service.sent("vault.begin_upload")[0]["size_bytes"] == len(b"converted")


def test_layers_are_replaced_in_legacy_models_only(service: Any, client: Client, tmp_path: Path) -> None:
    with pytest.raises(tl.LitVaultError) as refused:
        tl.import_model("contoso", str(tmp_path / "m.keras"), replace={"a": {"class": "WindowNorm"}})
    assert "replace is for models in HDF5" in str(refused.value.__cause__)
