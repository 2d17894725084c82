"""The page of the guide is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from tapeline.cli.page import page

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_is_that_of_the_commands() -> None:
    written = (ROOT / "docs" / "guide" / "cli.md").read_text()
    assert written == page(), "python -m tapeline.cli.page > docs/guide/cli.md"
