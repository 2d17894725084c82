"""Uploaded files stay while a command reads them, though another one removes them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from tapeline.clock import FakeClock
from tapeline.contracts.artifacts import BeginUpload, UploadPart
from tapeline.errors import TapelineError
from tapeline.subjects import Principal
from tapeline.uploads import Uploads

ANN = Principal("contoso", "ann")
DATA = b"some trades"
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def uploads(tmp_path: Path) -> Uploads:
    uploads = Uploads(tmp_path, FakeClock())
    begun = await uploads.begin(ANN, BeginUpload(size_bytes=len(DATA), sha256=DIGEST))
    part = UploadPart(upload_id=begun.upload_id, offset=0, data=base64.b64encode(DATA).decode())
    assert (await uploads.part(ANN, part)).complete
    return uploads


def test_a_file_that_is_held_outlives_its_removal(uploads: Uploads, tmp_path: Path) -> None:
    with uploads.hold() as held:
        path = held.path("contoso", DIGEST)
        assert held.path("contoso", DIGEST) == path
        uploads.forget("contoso", DIGEST)
        assert path.read_bytes() == DATA
        with pytest.raises(TapelineError, match="has been uploaded"):
            uploads.path("contoso", DIGEST)
    assert list((tmp_path / "held").iterdir()) == []


def test_another_teams_file_cannot_be_held(uploads: Uploads) -> None:
    with uploads.hold() as held, pytest.raises(TapelineError) as refused:
        held.path("rivals", DIGEST)
    assert refused.value.code == "not_found"


def test_what_a_killed_service_held_is_gone_after_its_next_start(uploads: Uploads, tmp_path: Path) -> None:
    with uploads.hold() as held:
        held.path("contoso", DIGEST)
        again = Uploads(tmp_path, FakeClock())
        assert list((tmp_path / "held").iterdir()) == []
        assert again.path("contoso", DIGEST).read_bytes() == DATA
