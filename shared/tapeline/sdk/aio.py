"""The SDK for coroutines: every name of `tapeline.sdk` with the same arguments, awaited.

    from tapeline import sdk as tl

    async with tl.aio.connect() as client:
        run = await tl.aio.Run.from_id("17")
        async for event in run.watch():
            print(event.sequence, await run.inputs())

Functions and methods are coroutines, what iterates iterates asynchronously, and a property that asks the services is
a method of its name. Data classes (`Event`, `Metric`, `Resources`, ...) and errors are those of `tapeline.sdk`.

There is one implementation: a twin runs the function itself on a thread of this module, while the request waits on
the client's own event loop; see `docs/decisions` for why.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel

from tapeline import sdk

T = TypeVar("T")
THREADS = 64
ASKING: dict[str, frozenset[str]] = {
    "Run": frozenset({
        "constants", "inputs", "last_modified", "metrics", "metrics_tables", "outputs", "parameters",
    }),
    "Experiment": frozenset({"is_running", "meta", "run"}),
    "VaultItem": frozenset({"canvas", "details"}),
    "Asset": frozenset({"certificate", "stats"}),
    "AssetFile": frozenset({"path"}),
    "Canvas": frozenset({"document", "inputs", "outputs"}),
    "Model": frozenset({"step", "name", "description"}),
}  # fmt: skip
"""The properties that ask the services, and so are methods here."""
CLASSES = (
    "Asset", "AssetFile", "Canvas", "Checkpoint", "Client", "Experiment", "Iteration", "Iterations", "Metrics", "Model",
    "Models", "Modules", "Namespace", "Namespaces", "PastClient", "Run", "Table", "Tape", "VaultItem",
)  # fmt: skip
"""The classes whose methods ask the services."""
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """The result of a function that waits, without keeping the event loop from anything else."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tapeline-aio")
    # A past that was entered here is entered there too.
    context = contextvars.copy_context()
    call = functools.partial(context.run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_pool, call)


class Twin:
    """An object of the SDK for coroutines; `sync` is the object itself."""

    _kind: type = object
    _asking: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._given = (args, kwargs)
        self._sync: Any = None
        if not _asks_when_made(self._kind):
            self._sync = self._kind(*_bare(args), **_bare(kwargs))

    @classmethod
    def of(cls, sync: Any) -> Twin:
        """The twin of an object."""
        made = cls.__new__(cls)
        made._given, made._sync = ((), {}), sync
        return made

    @property
    def sync(self) -> Any:
        """The object of `tapeline.sdk`."""
        if self._sync is None:
            raise RuntimeError(f"{type(self).__name__} asks when it is made: await {type(self).__name__}(...)")
        return self._sync

    def __await__(self) -> Generator[Any, None, Twin]:
        return self._made().__await__()

    async def _made(self) -> Twin:
        if self._sync is None:
            args, kwargs = self._given
            self._sync = await run(self._kind, *_bare(args), **_bare(kwargs))
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _twinned(getattr(self.sync, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            setattr(self.sync, name, _bare(value))

    def __repr__(self) -> str:
        return f"aio.{self._sync!r}"

    def __len__(self) -> int:
        return len(self.sync)

    def __getitem__(self, key: Any) -> Awaitable[Any]:
        return run(lambda: self.sync[key])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Twin) and bool(self.sync == other.sync)

    def __hash__(self) -> int:
        return hash(self.sync)

    async def __aenter__(self) -> Twin:
        await self._made()
        if hasattr(self._sync, "__enter__"):
            self._sync.__enter__()
        return self

    async def __aexit__(self, *exit: Any) -> None:
        await run(self.sync.__exit__, *exit)


class _Connecting:
    """`await connect(...)`, or `async with connect(...) as client`."""

    def __init__(self, made: Awaitable[Twin]) -> None:
        self._coming = made
        self._client: Twin | None = None

    def __await__(self) -> Generator[Any, None, Twin]:
        return self._coming.__await__()

    async def __aenter__(self) -> Twin:
        self._client = await self._coming
        return self._client

    async def __aexit__(self, *exit: object) -> None:
        if self._client is not None:
            await run(self._client.sync.close)


class _Module:
    """The functions of a module of the SDK, awaited."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self.__doc__ = module.__doc__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        made = _twin_of(name, found)
        self.__dict__[name] = made
        return made


def _asks_when_made(kind: type) -> bool:
    return kind.__name__ in ("Asset", "Canvas")


def _bare(value: Any) -> Any:
    """A value with objects of the SDK in place of their twins."""
    if isinstance(value, Twin):
        return value.sync
    if isinstance(value, tuple | list):
        return type(value)(_bare(each) for each in value)
    if isinstance(value, dict):
        return {key: _bare(each) for key, each in value.items()}
    return value


def _twinned(value: Any) -> Any:
    """A value with twins in place of objects of the SDK."""
    if isinstance(value, list):
        return [_twinned(each) for each in value]
    for kind in type(value).__mro__:
        found = _classes().get(kind)
        if found is not None:
            return found.of(value)
    return value


def _coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def asked(*args: Any, **kwargs: Any) -> Any:
        return _twinned(await run(function, *_bare(args), **_bare(kwargs)))

    return asked


def _iterating(function: Callable[..., Iterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(function)
    async def iterated(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        found = function(*_bare(args), **_bare(kwargs))
        end = object()
        try:
            while (item := await run(next, found, end)) is not end:
                yield _twinned(item)
        finally:
            # Cut off while the next one is awaited, the thread still has it for a moment.
            close = getattr(found, "close", None)
            if close is not None:
                await run(_closed, close)

    return iterated


def _closed(close: Callable[[], None]) -> None:
    try:
        close()
    except ValueError:
        return


def _method(name: str, found: Any) -> Any:
    """What stands for a method of a class; None for what is passed through."""
    if isinstance(found, staticmethod):
        return staticmethod(_coroutine(found.__func__))
    if isinstance(found, classmethod):
        return None
    if not isinstance(found, FunctionType):
        return None
    make = _iterating if inspect.isgeneratorfunction(found) or name == "watch" else _coroutine
    return make(found)


def _property(found: property) -> Callable[..., Any]:
    read = found.fget
    if read is None:
        raise TypeError("a property that cannot be read has no twin")

    async def asked(self: Twin) -> Any:
        return _twinned(await run(read, self.sync))

    asked.__doc__ = found.__doc__
    return asked


@functools.cache
def _classes() -> dict[type, type[Twin]]:
    """The twin of each class."""
    made: dict[type, type[Twin]] = {}
    for name in CLASSES:
        kind = getattr(sdk, name)
        members: dict[str, Any] = {"_kind": kind, "_asking": ASKING.get(name, frozenset()), "__doc__": kind.__doc__}
        own = [
            each for each in kind.__mro__ if each not in (object, BaseModel) and each.__module__.startswith("tapeline")
        ]
        for each in reversed(own):
            for member, found in vars(each).items():
                if member.startswith("_"):
                    continue
                if isinstance(found, property):
                    if member in members["_asking"]:
                        members[member] = _property(found)
                elif (twin := _method(member, found)) is not None:
                    members[member] = twin
        members["__signature__"] = inspect.signature(kind)
        made[kind] = type(name, (Twin,), members)
    return made


def _twin_of(name: str, found: Any) -> Any:
    if isinstance(found, ModuleType):
        return _Module(found)
    if isinstance(found, type):
        return _classes().get(found, found)
    if name in ("lit_error_handler", "get_project_id", "example_canvas"):
        return found
    if name == "connect":

        @functools.wraps(found)
        def connect(*args: Any, **kwargs: Any) -> _Connecting:
            return _Connecting(_coroutine(found)(*args, **kwargs))

        return connect
    return _coroutine(found) if callable(found) else found


__all__ = [name for name in sdk.__all__ if name != "aio"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'tapeline.sdk.aio' has no attribute {name!r}")
    found = _twin_of(name, getattr(sdk, name))
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
