"""Removing from a copy of the log what the law wants removed, so that the rest is proved as before.

An erased commit keeps its position, sequences, ids and types. The data of its events becomes
`{"erased": true}`, or loses one field; its header gains `erased`, the digest that the commit had, which is what
its successor names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from tapeline.errors import TapelineError
from tapeline.log import StoredCommit
from tapeline.log.codec import Codec, link
from tapeline.log.erased import ERASED, fixed
from tapeline.replay.manifest import Erasure
from tapeline.subjects import parse_ref

_encoder = msgspec.json.Encoder()


class Eraser:
    """Applies erasures to the commits of a log, one after the other."""

    def __init__(self, erasures: Iterable[Erasure], codec: Codec) -> None:
        self._wanted = list(erasures)
        self._of: dict[str, list[Erasure]] = {}
        for erasure in self._wanted:
            if not erasure.reason.strip():
                raise TapelineError(
                    f"nothing says why {erasure.aggregate} is to be erased", code="invalid", hint="--reason TEXT"
                )
            self._of.setdefault(parse_ref(erasure.aggregate).subject, []).append(erasure)
        self._codec = codec
        self._commits: Counter[Erasure] = Counter()

    def apply(self, commit: StoredCommit) -> StoredCommit:
        """The commit without what is to be erased of it.

        Raises
        ------
        TapelineError
            `invalid` for an event, or a field of one, that cannot be erased: nothing could read it any more.
        """
        wanted = self._of.get(commit.subject)
        if wanted is None:
            return commit
        lines: list[dict[str, Any]] = msgspec.json.decode(commit.body)
        touched = [erasure for erasure in wanted if sum(self._erase(line, erasure, commit) for line in lines)]
        if not touched:
            return commit
        self._commits.update(touched)
        header: dict[str, Any] = msgspec.json.decode(commit.header)
        # A digest of what was asked could be used to find out what was asked.
        header.pop("content", None)
        header["erased"] = link(commit)
        made = StoredCommit(
            position=commit.position,
            subject=commit.subject,
            header=_encoder.encode(header),
            body=_encoder.encode(lines),
            stored_at=commit.stored_at,
        )
        try:
            self._codec.decode(made)
        except TapelineError as error:
            raise TapelineError(
                f"the commit at position {commit.position} could not be read without that: {error.message}",
                code="invalid",
                hint=f"erase it whole: --erase {touched[0].aggregate}",
            ) from error
        return made

    def done(self) -> tuple[Erasure, ...]:
        """The erasures with the number of commits that each has changed.

        Raises
        ------
        TapelineError
            `not_found` for one that met nothing.
        """
        for erasure in self._wanted:
            if not self._commits[erasure]:
                what = f"no event of {erasure.aggregate}"
                raise TapelineError(
                    f"{what} has the field {erasure.field!r}" if erasure.field else what,
                    code="not_found",
                    hint=f"tapeline log show {erasure.aggregate}",
                )
        return tuple(msgspec.structs.replace(each, commits=self._commits[each]) for each in self._wanted)

    def _erase(self, line: dict[str, Any], erasure: Erasure, commit: StoredCommit) -> bool:
        """Take it out of one event; False when there is nothing to take out."""
        data = line["data"]
        if data == ERASED:
            return False
        tag = str(line["type"])
        if erasure.field is None:
            if self._codec.tombstone(tag) is None:
                raise TapelineError(
                    f"{tag} at position {commit.position} cannot be erased: what follows builds on it",
                    code="invalid",
                    hint="erase the aggregate that it belongs to, or one field: --erase REF:FIELD",
                )
            line["data"] = dict(ERASED)
            return True
        *path, last = erasure.field.split(".")
        place: Any = data
        for name in path:
            place = place.get(name) if isinstance(place, dict) else None
        if not isinstance(place, dict) or last not in place:
            return False
        if not path and last in fixed(self._codec.newest(tag)):
            raise TapelineError(
                f"{tag} at position {commit.position} cannot do without {last}",
                code="invalid",
                hint=f"erase it whole: --erase {erasure.aggregate}",
            )
        del place[last]
        return True
