"""A logger brings structlog with the first line that is written, and not before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tapeline.errors import TapelineError
from tapeline.logs import logging_setup_later

SAID = """
import sys
from tapeline.logs import get_logger, logging_setup_later, logging_setup_now
log = get_logger()
logging_setup_later("host", level="{level}")
log.debug("whispered")
print("structlog" in sys.modules)
{line}
print("structlog" in sys.modules)
"""


def ran(line: str, level: str = "INFO") -> tuple[list[str], list[dict[str, str]]]:
    done = subprocess.run(
        [sys.executable, "-c", SAID.format(level=level, line=line)], capture_output=True, text=True, check=True
    )
    return done.stdout.split(), [json.loads(each) for each in done.stderr.splitlines()]


def test_a_line_below_the_level_brings_nothing() -> None:
    assert ran("") == (["False", "False"], [])


def test_a_line_that_can_wait_is_written_at_the_end_with_the_time_it_was_said() -> None:
    loaded, lines = ran("log.info('served', services=2); import time; time.sleep(0.05); log.info('left')")
    assert loaded == ["False", "False"]
    assert [(line["event"], line["process"], line.get("services")) for line in lines] == [
        ("served", "host", 2),
        ("left", "host", None),
    ]
    assert lines[0]["at"] < lines[1]["at"]


def test_a_warning_is_written_at_once_after_what_was_held() -> None:
    loaded, lines = ran("log.info('served'); log.warning('lost')")
    assert loaded == ["False", "True"]
    assert [(line["event"], line["level"]) for line in lines] == [("served", "info"), ("lost", "warning")]


def test_lines_are_not_held_without_end() -> None:
    loaded, lines = ran("for number in range(150): log.info('served', number=number)")
    assert loaded == ["False", "True"]
    assert [line["number"] for line in lines] == list(range(150))


def test_what_was_put_off_is_done_on_wish_and_then_others_write_too() -> None:
    loaded, (line,) = ran("logging_setup_now(); import logging; logging.getLogger('nats').warning('lost')")
    assert loaded == ["False", "True"]
    assert (line["event"], line["level"], line["process"]) == ("lost", "warning", "host")


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(TapelineError, match="'LOUD' is no level"):
        logging_setup_later("host", level="LOUD")
