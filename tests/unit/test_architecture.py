"""The directions of imports and the banned calls, read from the sources with `ast`; nothing is imported.

Each rule is a function from a module to its faults, and is tried on a planted bad sample first, so that it
is known to bite.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOTS = ("services", "shared", "ext")
SERVICES = ("runs", "assets", "vault", "trainer", "host")


@dataclass(frozen=True)
class Module:
    """A source file: its top folder, its dotted name, and its tree."""

    top: str
    name: str
    tree: ast.Module

    @property
    def last(self) -> str:
        return self.name.rsplit(".", 1)[-1]

    def imports(self) -> Iterator[tuple[str, bool]]:
        """Every imported module, and whether that is inside a function or only for type checkers."""
        yield from _imports(self.tree, False)


def _imports(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, lazy
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            for alias in child.names:
                yield f"{child.module}.{alias.name}", lazy
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        yield from _imports(child, lazy or inside)


def _module(path: Path) -> Module:
    relative = path.relative_to(ROOT)
    parts = list(relative.with_suffix("").parts[1:])
    if parts[-1] == "__init__":
        parts.pop()
    return Module(relative.parts[0], ".".join(parts), ast.parse(path.read_text(encoding="utf-8")))


MODULES = [_module(path) for top in ROOTS for path in sorted((ROOT / top / "tapeline").rglob("*.py"))]


def _sample(source: str, name: str = "tapeline.runs.run.handlers", top: str = "services") -> Module:
    return Module(top, name, ast.parse(source))


def _service_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "tapeline" and parts[1] in SERVICES else None


@cache
def _own_of_aggregates() -> set[str]:
    """The modules that an aggregate has beside it and imports: they are as pure as it is."""
    named: set[str] = set()
    for module in MODULES:
        if module.last == "aggregate":
            own = module.name.rsplit(".", 1)[0]
            named |= {".".join([own, *name[len(own) :].split(".")[1:2]]) for name, _ in module.imports()
                      if name.startswith(f"{own}.")}  # fmt: skip
    return {name for name in named if not name.endswith(".commands")}


def aggregates_are_pure(module: Module) -> list[str]:
    owned = _own_of_aggregates()
    if module.last != "aggregate" and module.name not in owned:
        return []
    allowed = ("tapeline.contracts", "tapeline.errors", "typing", "typing_extensions", "dataclasses", "enum")
    allowed += ("collections", "functools", "math", "datetime.timedelta", "datetime.datetime", "__future__")
    own = module.name.rsplit(".", 1)[0]
    allowed += (f"{own}.commands", *(f"{name}." for name in owned if name.startswith(f"{own}.")))
    faults = [f"imports {name}" for name, _ in module.imports() if not name.startswith(allowed)]
    calls = {ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    return faults + [f"calls {call}" for call in calls if call.endswith((".now", ".utcnow", ".today"))]


KERNELS = tuple(f"tapeline.{path.name}" for path in sorted((ROOT / "ext" / "tapeline").iterdir()) if path.is_dir())


def services_stay_apart(module: Module) -> list[str]:
    own = _service_of(module.name)
    faults = []
    for name, _ in module.imports():
        other = _service_of(name)
        if other is None or other == own:
            continue
        if own == "host" and module.last == "__main__":
            continue
        faults.append(f"imports {name}")
    return faults


def kernels_lean_on_nothing(module: Module) -> list[str]:
    if module.top != "ext":
        return []
    return [
        f"imports {name}"
        for name, _ in module.imports()
        if name.startswith("tapeline.") and not name.startswith(KERNELS)
    ]


def only_main_imports_app(module: Module) -> list[str]:
    if module.last == "__main__":
        return []
    return [f"imports {name}" for name, _ in module.imports() if _service_of(name) and "app" in name.split(".")[2:4]]


def tables_and_queries_do_not_look_up(module: Module) -> list[str]:
    banned = {
        "tables": ("handlers", "queries", "projection", "aggregate"),
        "projection": ("handlers", "queries", "aggregate"),
        "queries": ("handlers", "aggregate", "projection"),
        "aggregate": ("handlers", "queries", "projection", "tables"),
    }.get(module.last, ())
    return [
        f"imports {name}"
        for name, _ in module.imports()
        if _service_of(name) == _service_of(module.name) and _service_of(name) and set(name.split(".")) & set(banned)
    ]


def keras_stays_where_it_trains(module: Module) -> list[str]:
    allowed = ("tapeline.trainer", "tapeline.canvas.transpile", "tapeline.security.models", "tapeline.sdk.keras")
    faults = []
    for name, lazy in module.imports():
        if name.split(".")[0] in ("keras", "tensorflow", "jax", "torch"):
            if not module.name.startswith(allowed):
                faults.append(f"imports {name}")
            elif not lazy:
                faults.append(f"imports {name} outside a function")
    return faults


DOORS = {
    "h5py": (
        "tapeline.security", "tapeline.tape", "tapeline.assets", "tapeline.asset_files", "tapeline.cold",
        "tapeline.sdk.assets",
    ),
    "sqlalchemy": ("tapeline.database", "tapeline.projections", "tapeline.service", "tapeline.runs", "tapeline.assets",
                   "tapeline.vault", "tapeline.replay", "tapeline.hosting"),
    "nats": ("tapeline.log", "tapeline.connection", "tapeline.topology", "tapeline.testing", "tapeline.sdk",
             "tapeline.trainer", "tapeline.hosting", "tapeline.embedded", "tapeline.replay", "tapeline.cli",
             "tapeline.server_config",
             "tapeline.security", "tapeline.server_monitor", "tapeline.teams"),
    "faststream": ("tapeline.bus", "tapeline.hosting"),
    "structlog": ("tapeline.logs", "tapeline.cli.log", "tapeline.security.redact", "tapeline.testing"),
}  # fmt: skip


def doors_are_few(module: Module) -> list[str]:
    return [
        f"imports {name}"
        for name, _ in module.imports()
        if (allowed := DOORS.get(name.split(".")[0])) and not module.name.startswith(allowed)
    ]


def no_broker_at_import(module: Module) -> list[str]:
    makers = ("NatsBroker", "create_async_engine", "create_engine", "new_event_loop", "Client", "NatsRouter")
    faults = []
    for statement in module.tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Call):
            called = ast.unparse(statement.value.func).rsplit(".", 1)[-1]
            if called in makers:
                faults.append(f"makes {called} at import")
    return faults


PREFIXES = ("evt.", "gw.", "met.", "ag.", "feed.", "actl.", "build.", "tl.")


def subjects_are_built_in_one_place(module: Module) -> list[str]:
    if module.name == "tapeline.subjects":
        return []
    docs = {
        id(node.body[0].value)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        f"has the subject {node.value!r}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docs
        and node.value.startswith(PREFIXES)
        and " " not in node.value
        and not node.value.endswith(".py")
    ]


def names_say_something(module: Module) -> list[str]:
    return ["is a drawer"] if module.last in ("utils", "common", "manager", "misc", "helpers", "base") else []


BANNED_MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "requests")
BANNED_MODULES += ("urllib.request", "httpx", "telnetlib")
BANNED_CALLS = ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "yaml.load")
BANNED_CALLS += ("hashlib.md5", "hashlib.sha1", "importlib.import_module")
MODEL_CALLS = ("load_model", "from_config", "clone_model", "model_from_json", "enable_unsafe_deserialization")
ALLOWED_CALLS = {
    "importlib.import_module": (
        "tapeline.sdk",
        "tapeline.cli.root",
    ),  # their names are loaded on first touch, from written lists
    "hashlib.sha1": ("tapeline.ids",),  # what a version 5 UUID is made of
}


def nothing_banned(module: Module) -> list[str]:
    faults = [f"imports {name}" for name, _ in module.imports() if name.startswith(BANNED_MODULES)]
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        if called in BANNED_CALLS and module.name not in ALLOWED_CALLS.get(called, ()):
            faults.append(f"calls {called}")
        last = called.rsplit(".", 1)[-1]
        if last in MODEL_CALLS and called.split(".")[0] not in ("super()", "self", "cls"):
            allowed = ("tapeline.security.models", "tapeline.sdk")
            if not module.name.startswith(allowed) or last == "enable_unsafe_deserialization":
                faults.append(f"calls {called}")
        if called == "h5py.File" and module.name != "tapeline.security.hdf5":
            faults.append("calls h5py.File")
        if last in ("extract", "extractall") and ("zip" in called.lower() or "tar" in called.lower()):
            faults.append(f"calls {called}")
        for keyword in node.keywords:
            given = ast.unparse(keyword.value)
            if (keyword.arg, given) in (("shell", "True"), ("allow_pickle", "True"), ("verify", "False")):
                faults.append(f"passes {keyword.arg}={given}")
            if keyword.arg == "safe_mode" and given != "True":
                faults.append(f"passes safe_mode={given}")
    return faults


RULES: dict[Callable[[Module], list[str]], Module] = {
    aggregates_are_pure: _sample("import os", "tapeline.runs.run.aggregate"),
    services_stay_apart: _sample("from tapeline.assets.asset import queries"),
    kernels_lean_on_nothing: _sample("from tapeline.errors import TapelineError", "tapeline.bars.front", "ext"),
    only_main_imports_app: _sample("from tapeline.runs.app import build"),
    tables_and_queries_do_not_look_up: _sample("from tapeline.runs.run import handlers", "tapeline.runs.run.queries"),
    keras_stays_where_it_trains: _sample("def f():\n import keras"),
    doors_are_few: _sample("import nats"),
    no_broker_at_import: _sample("broker = NatsBroker()"),
    subjects_are_built_in_one_place: _sample("x = f'evt.{team}.run.{id}'"),
    names_say_something: _sample("", "tapeline.runs.utils"),
    nothing_banned: _sample("import pickle"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule: Callable[[Module], list[str]]) -> None:
    faults = [f"{module.name} {fault}" for module in MODULES for fault in rule(module)]
    assert faults == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_bites_its_planted_sample(rule: Callable[[Module], list[str]]) -> None:
    assert rule(RULES[rule]) != []


def test_what_an_aggregate_keeps_beside_it_is_as_pure() -> None:
    assert aggregates_are_pure(_sample("import os", "tapeline.runs.run.state")) == ["imports os"]


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')", "subprocess.run(x, shell=True)", "np.load(x, allow_pickle=True)", "hashlib.md5(x)",
        "keras.saving.load_model(x)", "h5py.File(x)", "load(x, safe_mode=False)", "zipfile.ZipFile(x).extractall()",
    ],
)  # fmt: skip
def test_banned_calls_are_found(source: str) -> None:
    assert nothing_banned(_sample(source)) != []


def test_no_init_hides_the_other_roots_of_the_namespace() -> None:
    assert [top for top in ROOTS if (ROOT / top / "tapeline" / "__init__.py").exists()] == []


def test_every_package_says_that_it_is_typed() -> None:
    packages = {path.parent for top in ROOTS for path in (ROOT / top / "tapeline").glob("*/__init__.py")}
    assert [str(path.relative_to(ROOT)) for path in packages if not (path / "py.typed").exists()] == []
