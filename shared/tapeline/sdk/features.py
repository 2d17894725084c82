"""Features and labels that a team has named: saved once, used by every build that names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tapeline.sdk.client import client_of
from tapeline.sdk.errors import LitModelError, lit_error_handler
from tapeline.sdk.records import BaseModelWithDatetime, Moment


class Feature(BaseModelWithDatetime):
    """A feature or label under its name: a component with parameters, and how often the name was given a meaning."""

    name: str
    version: int
    kind: Literal["feature", "label"]
    component: str
    component_version: int
    params: dict[str, Any]
    saved_at: Moment | None = None
    user: str = ""


@lit_error_handler(LitModelError)
def save_feature(
    team: str,
    name: str,
    component: str,
    params: Mapping[str, Any] | None = None,
    *,
    expected_version: int | None = None,
    command_id: str | None = None,
) -> Feature:
    """Name a component with parameters, or give a name another meaning.

    Parameters
    ----------
    name : free text such as `90_1daybar_lp%`; it is never parsed
    component : as `tapeline asset features` lists them
    expected_version : 0 for a name that must be new, else the version that was looked at

    Raises
    ------
    LitModelError
        `already_exists`, `conflict`, `unknown_component`, or `invalid` with the parameter.
    """
    answer = (
        client_of(team)
        .command(
            "assets",
            "save_feature",
            name=name,
            component=component,
            params=dict(params or {}),
            expected_version=expected_version,
            command_id=command_id,
        )
        .view
    )
    return Feature(**answer)


@lit_error_handler(LitModelError)
def remove_feature(team: str, name: str, *, command_id: str | None = None) -> None:
    """Free the name of a feature or label; assets that were built with it keep its spec."""
    client_of(team).command("assets", "remove_feature", name=name, command_id=command_id)


@lit_error_handler(LitModelError)
def get_features(team: str) -> list[Feature]:
    """The features and labels that a team has named."""
    return [Feature(**each) for each in client_of(team).query("assets", "features")["saved"]]
