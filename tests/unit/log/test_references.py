"""Fields of events that name other things say so, and say nothing else."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tapeline.contracts import ALL_EVENTS
from tapeline.contracts import references as marks
from tapeline.contracts.agents import DeviceAnnounced
from tapeline.contracts.artifacts import Artifact
from tapeline.contracts.references import Makes, Names, marks_of, named_in
from tapeline.contracts.runs import CheckpointCompleted, JobCreated
from tapeline.subjects import KINDS

WORDS = {marks.ATTEMPT, marks.LEASE, marks.CHECKPOINT, marks.REVISION, marks.ARTIFACT, marks.HOLDER, marks.MODEL_PART}
WORDS |= {marks.TABLE}
NOT_REFERENCES = {
    "RunCreated.blueprint_id": "blueprints are built in",
    "RunCreated.project_id": "a project is a label",
    "VaultItemAdded.project_id": "a project is a label",
    "CheckpointBegun.checkpoint_id": "it is not there yet",
}


@pytest.mark.parametrize("event", ALL_EVENTS, ids=lambda event: event.__name__)
def test_every_field_that_is_an_id_or_an_artifact_is_marked(event: type) -> None:
    marked = {mark.field for mark in marks_of(event)}
    for field in fields(event):
        is_reference = field.name.endswith("_id") or "Artifact" in str(field.type)
        if is_reference and f"{event.__name__}.{field.name}" not in NOT_REFERENCES:
            assert field.name in marked
    assert {mark.mark.kind for mark in marks_of(event)} <= KINDS | WORDS


def test_what_an_event_names_and_makes_is_listed() -> None:
    file = Artifact(name="model.keras", size_bytes=3, sha256="ab" * 32)
    done = CheckpointCompleted(
        checkpoint_id="c1", epoch=2, attempt=1, global_step=3, training_epoch=1, files=[file, file]
    )
    assert list(named_in(done)) == [
        (Makes("checkpoint"), "c1"), (Names("lease"), "2"), (Makes("artifact"), "ab" * 32),
        (Makes("artifact"), "ab" * 32),
    ]  # fmt: skip
    job = JobCreated(attempt=1, session_name="s", seed=0, spec={})
    assert list(named_in(job)) == [(Makes("attempt"), "1")], "what is None names nothing"
    assert marks_of(DeviceAnnounced) == ()
