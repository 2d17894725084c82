"""Archived points on their way back: what a marker stands for, and questions that need objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from tapeline.errors import TapelineError
from tapeline.log.metrics import MetricsMessage
from tapeline.metric_archives import Absent, Files, Manifest, Object, manifest_at, marker_of
from tapeline.store import ArtifactStore

T = TypeVar("T")
PASSING = ("unavailable", "timeout")
"""What a store says that may say otherwise in a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedRun:
    """A marker with the manifest that it names, for the projection; `fault` where that cannot be had.

    `messages` is how many messages of the run the marker stands for.
    """

    position: int
    team: str
    run: str
    stored_at: datetime
    messages: int = 0
    at: Object | None = None
    manifest: Manifest | None = None
    fault: TapelineError | None = None


async def resolved(store: ArtifactStore, message: MetricsMessage) -> ArchivedRun:
    """What a marker stands for.

    An archive that is damaged makes a run's measurements unreadable and nobody else's: its run is set aside, and
    folded again once somebody has put the object back.
    """
    messages = 0
    at: Object | None = None
    manifest: Manifest | None = None
    fault: TapelineError | None = None
    try:
        marker = marker_of(message.body)
        at, messages = marker.manifest, marker.messages
        manifest = await manifest_at(store, at)
        if (manifest.team, manifest.run) != (message.team, message.run):
            raise TapelineError(
                f"the manifest {at.sha256[:12]} is of run {manifest.run}, not of {message.run}", code="corrupt"
            )
    except TapelineError as error:
        if error.code in PASSING:
            raise
        fault = error
    return ArchivedRun(
        position=message.position, team=message.team, run=message.run, stored_at=message.stored_at,
        messages=messages, at=at, manifest=manifest, fault=fault,
    )  # fmt: skip


async def with_objects(files: Files, ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to a question that is asked again for each object that it turns out to need.

    Raises
    ------
    TapelineError
        `corrupt` when an object is missing or damaged: no number is given rather than a wrong one.
    """
    brought: set[str] = set()
    while True:
        try:
            return await ask()
        except Absent as absent:
            if absent.sha256 in brought:
                raise TapelineError(
                    f"the object {absent.sha256[:12]} of archived metrics does not stay at hand",
                    code="unavailable",
                    hint="repeat the call",
                ) from absent
            wanted = absent.sha256
        brought.add(wanted)
        await files.bring(wanted)
