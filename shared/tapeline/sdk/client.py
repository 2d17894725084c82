"""A connection of the SDK: requests with retries, read-your-writes, one per team, safe in threads and forks."""

from __future__ import annotations

import json
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tapeline import subjects
from tapeline.errors import (
    ApiException,
    OutcomeUnknown,
    TapelineError,
    UnavailableError,
    from_fault,
)
from tapeline.sdk.errors import api_error
from tapeline.sdk.settings import Settings, resolve
from tapeline.sdk.transport import BusTransport, NoAnswer, Transport

if TYPE_CHECKING:
    from tapeline.loop_thread import LoopThread
    from tapeline.sdk.watching import LogEvent

T = TypeVar("T")

TRY_S = 10.0
TOTAL_TRIES = 3.0
"""The total time of a request, in times of one try: 30 s by default."""
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
CONTRACTS = "1.0"
"""Version of the published language that this SDK speaks."""
_RETRIED = frozenset({"unavailable", "behind"})
MakeTransport = Callable[[Settings, float], Transport]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply: the view, and for a command where its events stand."""

    view: Any
    position: int
    sequence: int | None = None
    replayed: bool = False


class Client:
    """A connection to one team. Thread-safe; after a fork the child makes its own."""

    def __init__(
        self,
        settings: Settings,
        *,
        timeout_s: float = TRY_S,
        total_s: float | None = None,
        transport: MakeTransport = BusTransport,
    ) -> None:
        self.settings = settings
        self._timeout_s = timeout_s
        self._total_s = timeout_s * TOTAL_TRIES if total_s is None else total_s
        self._make_transport = transport
        self._positions: dict[str, int] = {}
        self._log_id: str | None = None
        self._hello: dict[str, Any] | None = None
        self._start_anew()
        _clients.add(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._greeting = threading.Lock()
        self._pid = os.getpid()
        self._loop: LoopThread | None = None
        self._transport: Transport | None = None

    def __repr__(self) -> str:
        return f"Client(url={self.url!r}, team={self.team!r}, user={self.user!r})"

    @property
    def url(self) -> str:
        """The server's address."""
        return self.settings.url

    @property
    def team(self) -> str:
        """The team that this client acts for."""
        return self.settings.team

    @property
    def user(self) -> str:
        """The user that this client acts as."""
        return self.settings.user

    @property
    def position(self) -> int:
        """The highest position of the log that a reply to this client carried."""
        return self._positions.get(self._log_id or "", 0)

    def wait_for(self, position: int) -> None:
        """Make the next queries wait until the tables have reached a position that another client saw."""
        self.hello()
        self._note(self._log_id, position)

    def hello(self) -> dict[str, Any]:
        """Who the broker says this client is, and what the services speak; asked once.

        Raises
        ------
        ApiException
            `version_mismatch` when the services speak another major version of the published language.
        """
        with self._greeting:
            if self._hello is None:
                from importlib.metadata import version

                said = {"sdk_version": version("tapeline"), "contracts": CONTRACTS}
                view = self._ask("runs", "hello", said, command_id=None).view
                theirs = str(view.get("contracts") or CONTRACTS)
                if theirs.split(".")[0] != CONTRACTS.split(".")[0]:
                    raise ApiException.of(
                        "version_mismatch",
                        f"this SDK speaks contracts {CONTRACTS}, the services speak {theirs}",
                        hint="install the version of tapeline that the services run",
                    )
                if theirs != CONTRACTS:
                    warnings.warn(f"this SDK speaks contracts {CONTRACTS}, the services speak {theirs}", stacklevel=3)
                self._log_id = str(view.get("log_id") or "")
                self._hello = dict(view)
            return self._hello

    def query(self, service: str, verb: str, **fields: Any) -> Any:
        """The view that answers a query; it has seen all that this client has done."""
        self.hello()
        if self.position:
            fields.setdefault("min_position", self.position)
        return self._ask(service, verb, fields, command_id=None).view

    def command(self, service: str, verb: str, *, command_id: str | None = None, **fields: Any) -> Reply:
        """Send a command until it is answered; repeated with the same id it has no second effect.

        Raises
        ------
        OutcomeUnknown
            No answer came in the whole time; its `command_id` repeats the call safely.
        """
        return self.command_within(self._total_s, service, verb, command_id=command_id, **fields)

    def command_within(
        self, total_s: float, service: str, verb: str, *, command_id: str | None = None, **fields: Any
    ) -> Reply:
        """Send a command that takes its time, until it is answered or `total_s` are over."""
        from tapeline.ids import new_id

        self.hello()
        if self.position:
            fields.setdefault("min_position", self.position)
        chosen = command_id or new_id()
        return self._ask(service, verb, fields | {"command_id": chosen}, command_id=chosen, total_s=total_s)

    def watch(
        self,
        since: int = 0,
        *,
        kinds: Collection[str] | None = None,
        types: Collection[str] | None = None,
        follow: bool = True,
    ) -> Iterator[LogEvent]:
        """Each event of the team after a position of the log: once, in order, for ever.

        Parameters
        ----------
        since : int
            The position of the last event that was seen; keep it where `last_of_commit` is true.
        kinds, types : collection of str, optional
            Only these kinds of aggregate, only these types of event.
        follow : bool
            Go on for ever, or end at the end of the log.

        Raises
        ------
        ValidationError
            `since` is past the end of the log.
        """
        from tapeline.sdk.watching import watch

        return watch(self, since, kinds=kinds, types=types, follow=follow)

    @contextmanager
    def hints(self, kind: str, id: str = "*") -> Iterator[threading.Event]:
        """An event that is set whenever the team's feed names an aggregate; a wake-up, never a state.

        The position that the hint names is waited for by the next query: the tables may lag a moment behind.
        """
        heard = threading.Event()

        def hear(hint: bytes) -> None:
            self._note(self._log_id, _position_of(hint))
            heard.set()

        async def open_feed() -> Callable[[], Any]:
            return await self._wire().subscribe(subjects.team_feed(kind, id), hear)

        end = self.run(open_feed())
        try:
            yield heard
        finally:

            async def close_feed() -> None:
                await end()

            if self._loop is not None and self._pid == os.getpid():
                self.run(close_feed())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine on the client's own event loop; works inside a running loop too."""
        return self._running_loop().run(work)

    def close(self) -> None:
        """End the connection and its thread; the next request opens a new one."""
        with self._lock:
            loop, transport = self._loop, self._transport
            self._loop = self._transport = None
        if loop is not None:
            loop.end(transport.close() if transport is not None else None)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running_loop(self) -> LoopThread:
        with self._lock:
            if self._loop is None:
                # Loaded with the first request: importing the SDK takes a quarter of its time less.
                from tapeline.loop_thread import LoopThread

                self._loop = LoopThread("tapeline-sdk")
            return self._loop

    def _wire(self) -> Transport:
        # Runs on the loop's thread only.
        if self._transport is None:
            self._transport = self._make_transport(self.settings, self._timeout_s)
        return self._transport

    def _note(self, log_id: str | None, position: int) -> None:
        with self._lock:
            known = log_id or ""
            self._positions[known] = max(self._positions.get(known, 0), position)

    def _ask(
        self,
        service: str,
        verb: str,
        fields: dict[str, Any],
        *,
        command_id: str | None,
        total_s: float | None = None,
    ) -> Reply:
        body = json.dumps(fields, allow_nan=False, default=_plain).encode()
        subject = subjects.request(self.user, service, verb)
        total = self._total_s if total_s is None else total_s
        answer = self.run(self._until_answered(f"{service}.{verb}", subject, body, command_id, total))
        self._note(answer.get("log_id"), int(answer.get("position", 0)))
        return Reply(
            answer.get("view"), int(answer.get("position", 0)), answer.get("sequence"), bool(answer.get("replayed"))
        )

    async def _until_answered(
        self, name: str, subject: str, body: bytes, command_id: str | None, total: float
    ) -> dict[str, Any]:
        import asyncio
        import random

        end = time.monotonic() + total
        wait = FIRST_WAIT_S
        unheard = False
        why: Exception | None = None
        while (left := end - time.monotonic()) > 0:
            try:
                raw = await self._wire().request(subject, body, min(self._timeout_s, left))
                answer: dict[str, Any] = json.loads(raw)
                if "error" not in answer:
                    return answer
                refusal = from_fault(answer["error"], raw.decode())
                if refusal.code not in _RETRIED:
                    if isinstance(refusal, OutcomeUnknown):
                        refusal.command_id = command_id
                    raise refusal
                why = refusal
            except NoAnswer as error:
                unheard = True
                why = error
            except ApiException:
                raise
            except TapelineError as error:
                found = api_error(error)
                if found.code not in _RETRIED:
                    raise found from error
                why = found
            # Full jitter, so that clients that lost one server do not come back in step.
            await asyncio.sleep(min(random.uniform(wait / 2, wait), max(0.0, end - time.monotonic())))
            wait = min(wait * 2, LONGEST_WAIT_S)
        raise self._gave_up(name, command_id, unheard, why, total)

    def _gave_up(
        self, name: str, command_id: str | None, unheard: bool, why: Exception | None, total: float
    ) -> ApiException:
        if not unheard and isinstance(why, ApiException):
            # Every try was answered with a refusal, so nothing has happened.
            return why
        if command_id is None:
            return UnavailableError.of(
                "unavailable", f"no answer to {name} from {self.url} in {total:g} s: {why}", hint="tapeline status"
            )
        error = OutcomeUnknown.of(
            "timeout",
            f"no answer to {name} from {self.url} in {total:g} s: {why}",
            hint=f"repeat the call with command_id={command_id!r}; it cannot happen twice",
            data={"command_id": command_id},
        )
        error.command_id = command_id
        return error


def _plain(value: Any) -> Any:
    from datetime import datetime

    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON data")


standing: ContextVar[Client | None] = ContextVar("standing", default=None)
"""The client that the functions of the SDK ask while a past is entered, whatever the default is."""
_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_inherited: list[Any] = []
_lock = threading.Lock()
_default: Client | None = None
_by_team: dict[str, Client] = {}


def connect(
    url: str | None = None,
    *,
    team: str | None = None,
    creds: str | os.PathLike[str] | None = None,
    profile: str | None = None,
    start: bool = False,
    timeout: float = 10.0,
) -> Client:
    """The default client from now on; optional, since the first call connects by itself.

    Each value is looked up as argument, in `TAPELINE_URL`, `TAPELINE_TEAM`, `TAPELINE_CREDS`,
    `TAPELINE_PROFILE`, in the profile of `config.toml`, and in the running embedded instance.

    Parameters
    ----------
    start : bool
        Start the embedded instance when nothing else names a server; `TAPELINE_AUTOSTART=0` forbids it.
    timeout : float
        Seconds of one try; a request tries for three times as long.

    Raises
    ------
    UnavailableError
        No server is named or none answers.
    PermissionDeniedError
        No key, a bad key, or a key file that others may read.
    """
    global _default
    try:
        settings = resolve(url, team, creds, profile)
    except UnavailableError:
        if not start or os.environ.get("TAPELINE_AUTOSTART") == "0":
            raise
        from tapeline.embedded import start_detached
        from tapeline.home import find_home

        start_detached(find_home())
        settings = resolve(url, team, creds, profile)
    client = Client(settings, timeout_s=timeout)
    try:
        client.hello()
    except BaseException:
        client.close()
        raise
    use(client)
    return client


def use(client: Client | None) -> None:
    """Make a client the default one; None forgets it and the clients of teams."""
    global _default
    with _lock:
        _default = client
        _by_team.clear()
        if client is not None:
            _by_team[client.team] = client


def current_client() -> Client:
    """The default client, made on first use; within `with tl.at(...)` the client of that past."""
    global _default
    if (past := standing.get()) is not None:
        return past
    with _lock:
        if _default is None:
            _default = Client(resolve())
            _by_team[_default.team] = _default
        return _default


def client_of(team: str | None = None) -> Client:
    """The client of a team, made on first use; the default one for None.

    Raises
    ------
    PermissionDeniedError
        There are no credentials for the team.
    """
    if team is None or ((past := standing.get()) is not None and past.team == team):
        return current_client()
    if not isinstance(team, str) or not team:
        raise ValueError(f"team must be a name, not {team!r}")
    with _lock:
        if (found := _by_team.get(team)) is not None:
            return found
        given = _default
    url = given.url if given is not None else None
    home = given.settings.home if given is not None else None
    made = Client(resolve(url, team, home=home))
    with _lock:
        return _by_team.setdefault(team, made)


def _after_fork() -> None:
    # The parent's loops and sockets stay referenced: closing them here would unregister the parent's
    # sockets from the selector that both processes share.
    global _lock
    _lock = threading.Lock()
    for client in list(_clients):
        _inherited.append((client._loop, client._transport))
        client._start_anew()


os.register_at_fork(after_in_child=_after_fork)


def _position_of(hint: bytes) -> int:
    """The position that a hint of the feed names; 0 for one that names none."""
    try:
        said = json.loads(hint)
    except ValueError:
        return 0
    found = said.get("position") if isinstance(said, dict) else None
    return found if isinstance(found, int) else 0
