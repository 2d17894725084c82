"""Pages that fit a message: cut after so many bytes, and saying so."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from tapeline.contracts.message import Page

PAGE_BYTES = 512 * 1024
V = TypeVar("V", bound=BaseModel)


def page_of(items: list[V]) -> Page[V]:
    """As many items as fit, at least one; `next` is the number of items given when some were left out."""
    page = Page(items=items)
    # Nearly every page fits, which is seen at once.
    if len(page.model_dump_json()) <= PAGE_BYTES:
        return page
    size = 0
    for i, item in enumerate(items):
        size += len(item.model_dump_json()) + 1
        if size > PAGE_BYTES and i > 0:
            return Page(items=items[:i], next=str(i))
    return page
