"""Every example in the docstrings of the SDK runs, as printed, against a team that has what they name.

`COVERED` lists the examples of the interfaces that the SDK takes its names from, and the docstring that has
each of them, line for line; `CHANGED` those that cannot run as they are printed, with what runs instead and why.
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
    "base_adapter.BaseAdapter.get_date": (
        'df = adapter.get_date("2025-02-03")',
        'df = adapter.get_date(pd.to_datetime("2025-02-03"))',
    ),
    "base_adapter.BaseAdapter.get_minute_bars": (
        'bars = adapter.get_minute_bars("2025-02-03")  # 1-minute bars, past data',
        'bars = adapter.get_minute_bars("2025-02-03", 5)  # 5-minute bars',
        'bars = adapter.get_minute_bars("2025-02-03", future=True)  # For label computation',
    ),
    "vault.get_vault_items": ('get_vault_items("contoso")',),
}
CHANGED = {
    'import_model("contoso", "/data/raw/import/model.h5")': (
        'import_model("contoso", "model.keras")',
        "the path is one of the machine that the page was written on; .h5 files are in tests/service/sdk",
    ),
    'canvas = Asset("contoso", "demo")': (
        'canvas = Canvas("contoso", "demo")',
        "an asset has neither inputs nor outputs: a slip of the page",
    ),
}
"""Examples that cannot run as they are printed: what runs instead, and why."""
NOT_PRINTED = {
    "asset.files": "paths of the machine that the page was written on; ours are compared by their names",
    "model.layers": "the layers of a model that nobody has; ours are those of the fixture, without a Lambda",
    "model": "an address in memory",
    "model.predict(x)": "the number of a model that nobody has; ours are compared by shape and kind",
    "model.predict(input_data)": "the number of a model that nobody has; ours are compared by shape and kind",
    'item.rename("new_name")': "the page lacks a quotation mark: {'status: 'ERROR', ...}",
}
"""Examples that run as printed, but whose printed results are samples."""


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
    found.name: found
    for name in (*(f"tapeline.sdk.{name}" for name in MODULES), "tapeline.tape.base_adapter")
    for found in of_module(importlib.import_module(name))
}


@pytest.fixture(scope="module")
def contoso(shared_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the team's files in it; the SDK acts for the team."""
    folder = tmp_path_factory.mktemp("contoso")
    furnish(shared_home, folder)
    tl.tapes.simulate(name="examples", team=TEAM, days=1, trades_per_day=8000, start="2025-02-03")
    client = tl.connect(team=TEAM)
    shutil.copy(tl.VaultItem(TEAM, "spy_e1").model_path(), folder / "model.keras")
    yield folder
    client.close()


@pytest.mark.parametrize("name", sorted(DOCTESTS))
def test_an_example_runs_as_printed(name: str, contoso: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(contoso)
    example = DOCTESTS[name]
    if name.startswith("base_adapter"):
        import pandas as pd

        example.globs |= {"adapter": tl.tapes.open_adapter("examples", team=TEAM), "pd": pd}
    if any("model" in each.source for each in example.examples):
        import keras

        # What a notebook draws while it predicts is no part of the example.
        keras.utils.disable_interactive_logging()
    told: list[str] = []
    failed, tried = doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=told.append)
    assert tried == len(example.examples)
    assert failed == 0, "".join(told)


def test_the_docstrings_hold_the_examples_that_the_names_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    ran = {each.source.rstrip("\n") for test in DOCTESTS.values() for each in test.examples}
    for name, sources in COVERED.items():
        lines = [each.source.rstrip("\n") for each in DOCTESTS[name].examples]
        assert [source for source in sources if source not in lines] == [], name
    assert [instead for instead, _ in CHANGED.values() if instead not in ran] == []
    assert [source for source in NOT_PRINTED if source not in ran] == []
    with capsys.disabled():
        print(f"\nexamples that run: {', '.join(COVERED)}")
        print("\n".join(f"instead of {what}: {instead} ({why})" for what, (instead, why) in CHANGED.items()))
