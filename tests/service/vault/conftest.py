"""The vault service on a real log, and a small Keras model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tapeline.security import models
from tapeline.testing.hosted import Hosted, hosted
from tapeline.testing.server import NatsServer
from tapeline.vault.app import build


@pytest.fixture
async def service(server: NatsServer, tmp_path: Path) -> AsyncIterator[Hosted]:
    async with hosted(server, build, tmp_path, "vault") as one:
        yield one


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    entry = keras.Input((3,), name="in1")
    model = keras.Model(entry, keras.layers.Dense(1, name="end_o1")(entry))
    path = tmp_path_factory.mktemp("model") / "model.1.keras"
    models.save(model, path)
    return path


@pytest.fixture(scope="session")
def lambda_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    entry = keras.Input((3,), name="in1")
    model = keras.Model(entry, keras.layers.Lambda(lambda x: x * 2, name="lambda_1")(entry))
    path = tmp_path_factory.mktemp("lambda") / "model.keras"
    model.save(path)
    return path
