"""Every example in the docstrings of the SDK runs, as printed, against a team that has what they name.

`COVERED` lists the examples of the interfaces that the SDK takes its names from, and the docstring that has
each of them, line for line; `LATER` lists those that it does not have yet.
"""

from __future__ import annotations

import doctest
import importlib
import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tapeline import sdk as tl
from tapeline.home import Home

from .contoso import TEAM, furnish

MODULES = (
    "runs", "kept", "tables", "urls", "checkpoints", "blueprints", "experiments", "models", "canvases", "assets",
    "vault", "projects", "errors",
)  # fmt: skip
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COVERED = {
    "experiments.get_experiments": (
        'experiments = get_experiments("contoso")',
        "experiments[0].runid, experiments[0].is_running",
    ),
    "errors.lit_error_handler": ("@lit_error_handler()\ndef raises_error():\n    assert False", "raises_error()"),
    "assets.Asset": ('asset = Asset("contoso", "schema_1707673805399")', "len(asset)", "asset.datasets"),
    "assets.Asset.files": ('asset = Asset("contoso", "schema_1707673805399")', "asset.files"),
    "canvases.Canvas.inputs": ('canvas = Canvas("contoso", "demo")', "canvas.inputs"),
    "canvases.Canvas.outputs": ('canvas = Canvas("contoso", "demo")', "canvas.outputs"),
    "canvases.Canvas.get_available_components": (
        "canvas = Canvas('contoso', 'demo')",
        "available_components = canvas.get_available_components()",
    ),
    "canvases.Canvas.transpile": ("canvas = Canvas('contoso', 'demo')", "model = canvas.transpile()", "model"),
    "vault.VaultItem.details": (
        'item = VaultItem("contoso", "my_model1")',
        "item.details",
        'item = VaultItem("contoso", "my_model0")',
    ),
    "vault.VaultItem.load_model": ("model = vault_item.load_model()", "model.layers"),
    "vault.VaultItem.get_data_from_path": (
        "model = vault_item.load_model()",
        "asset = vault_item.get_assets()[0]",
        "index = random.randint(0, len(asset.files[0]) - 1)",
        "x, y = vault_item.get_data_from_path(asset.files[0].path, index)",
        "model.predict(x)",
    ),
    "vault.VaultItem.zeros": (
        "model = vault_item.load_model()",
        "input_data = vault_item.zeros()",
        "model.predict(input_data)",
    ),
    "vault.VaultItem.rename": (
        'item = VaultItem("contoso", "my_model1")',
        'item.rename("my_model2")',
        "item.name",
        'item = VaultItem("contoso", "my_model0")',
        'item.rename("new_name")',
        'item.rename("my_model1")',
    ),
    "vault.get_vault_items": ('get_vault_items("contoso")',),
}
LATER = {
    'import_model("contoso", "/data/raw/import/model.h5")': "runs with a file that is there, .keras or .h5",
    'adapter.get_date("2025-02-03")': "BaseAdapter",
    'adapter.get_minute_bars("2025-02-03")': "BaseAdapter",
}


def of_module(module: ModuleType) -> Iterator[doctest.DocTest]:
    # The finder itself passes over what a decorator of another module has wrapped.
    finder = doctest.DocTestFinder(exclude_empty=True)
    short = module.__name__.rpartition(".")[2]
    for name, found in vars(module).items():
        if getattr(found, "__module__", None) == module.__name__ and callable(found):
            for each in finder.find(inspect.unwrap(found), f"{short}.{name}", module=False, globs=dict(vars(module))):
                if each.examples:
                    yield each


DOCTESTS = {
    found.name: found for name in MODULES for found in of_module(importlib.import_module(f"tapeline.sdk.{name}"))
}


@pytest.fixture(scope="module")
def contoso(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the team's files in it; the SDK acts for the team."""
    folder = tmp_path_factory.mktemp("contoso")
    furnish(shared_home, folder)
    client = tl.connect(team=TEAM)
    shutil.copy(tl.VaultItem(TEAM, "spy_e1").model_path(), folder / "model.keras")
    yield folder
    client.close()


@pytest.mark.parametrize("name", sorted(DOCTESTS))
def test_an_example_runs_as_printed(name: str, contoso: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(contoso)
    example = DOCTESTS[name]
    if any("model" in each.source for each in example.examples):
        import keras

        # What a notebook draws while it predicts is no part of the example.
        keras.utils.disable_interactive_logging()
    told: list[str] = []
    failed, tried = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=told.append)
    assert tried == len(example.examples)
    assert failed == 0, "".join(told)


def test_the_docstrings_hold_the_examples_that_the_names_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    for name, sources in COVERED.items():
        lines = [each.source.rstrip("\n") for each in DOCTESTS[name].examples]
        assert [source for source in sources if source not in lines] == [], name
    with capsys.disabled():
        print(f"\nexamples that run: {', '.join(COVERED)}")
        print("\n".join(f"not yet: {what} ({why})" for what, why in LATER.items()))
