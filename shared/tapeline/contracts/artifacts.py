"""Artifacts: immutable bytes, named by digest, uploaded in parts and promoted by a service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tapeline.contracts.message import Command, Digest, Query, View

PART_BYTES = 384 * 1024
"""Largest part of an upload or download: base64 of it fits a message of 1 MiB with room to spare."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One immutable file: its name within what it belongs to, its size and its SHA-256."""

    name: str
    size_bytes: int
    sha256: str


class ArtifactView(View):
    """One immutable file of a tape, asset, checkpoint or vault item."""

    name: str
    size_bytes: int
    sha256: str


class BeginUpload(Command):
    """Sent by the SDK before the bytes of a file: declares its size and digest."""

    size_bytes: int = Field(ge=0, le=16 * 1024**3)
    sha256: Digest


class UploadPart(Command):
    """Sent by the SDK for each part of an upload, in order; `data` is base64."""

    upload_id: str = Field(max_length=64)
    offset: int = Field(ge=0)
    data: str = Field(max_length=PART_BYTES * 4 // 3 + 4)


class UploadView(View):
    """How far an upload has come; `complete` once size and digest agree."""

    upload_id: str
    size_bytes: int
    received_bytes: int
    complete: bool


class ReadArtifact(Query):
    """Sent by the SDK to fetch a part of a file that its team owns; at most `PART_BYTES`."""

    sha256: Digest
    offset: int = Field(default=0, ge=0)
    size_bytes: Annotated[int, Field(ge=1, le=PART_BYTES)] = PART_BYTES


class PartView(View):
    """A part of a file in base64, and the size of the whole."""

    data: str
    size_bytes: int
