"""The published AsyncAPI document: that of the verbs as they are, and one that others can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from jsonschema import Draft202012Validator

from tapeline.assets import app as assets
from tapeline.asyncapi import document_text, verbs_of
from tapeline.bus import Verb
from tapeline.runs import app as runs
from tapeline.vault import app as vault

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas" / "asyncapi.json"


@pytest.fixture(scope="module")
def known() -> list[Verb]:
    return list(verbs_of({"runs": runs.build, "assets": assets.build, "vault": vault.build}))


@pytest.fixture(scope="module")
def document(known: list[Verb]) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(document_text(known))
    return made


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    if isinstance(value, list):
        return set().union(*(references(item) for item in value))
    return set()


def test_the_published_document_is_that_of_the_verbs(known: list[Verb]) -> None:
    assert PUBLISHED.read_text() == document_text(known), (
        "python -m tapeline.host --asyncapi > docs/schemas/asyncapi.json"
    )


def test_every_verb_has_a_channel_and_an_operation(known: list[Verb], document: dict[str, Any]) -> None:
    assert len(document["operations"]) == len(known)
    assert set(document["channels"]) == {*document["operations"], "replies"}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for reference in references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_another_reader_of_asyncapi_understands_it(document: dict[str, Any]) -> None:
    read = ApplicationSchema.model_validate(document)
    assert len(read.operations) == len(document["operations"])


def test_a_request_that_the_schema_takes_is_taken_by_the_contract(known: list[Verb], document: dict[str, Any]) -> None:
    create = next(verb for verb in known if (verb.service, verb.name) == ("runs", "create"))
    schema = {"$ref": f"#/components/schemas/{create.request.__name__}", "components": document["components"]}
    request = {
        "name": "r", "version": "1", "project_id": "p", "blueprint_id": "b", "task_type": "t", "config": {},
        "resources": {"cpu": "1", "memory": "1Gi"},
    }  # fmt: skip
    assert not list(Draft202012Validator(schema).iter_errors(request))
    assert create.request.model_validate(request)
    assert list(Draft202012Validator(schema).iter_errors(request | {"surprise": 1}))
