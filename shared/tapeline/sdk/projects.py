"""Projects: labels within a team."""

from __future__ import annotations

import re

from tapeline.sdk import arguments

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def get_project_id(name: str) -> str:
    """The id of the project of a name; a project exists once something is in it.

    Examples
    --------
    >>> get_project_id("My Project")
    'my-project'
    """
    if not isinstance(name, str):
        raise arguments.BadType(f"name must be a string, not {name!r}", hint=f"write {str(name)!r}")
    found = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
    if _SLUG.fullmatch(found) is None:
        raise arguments.BadValue(
            f"{name!r} is not the name of a project: it needs 1 to 63 letters, digits, _ or -", hint="write my_project"
        )
    return found
