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


def test_the_first_line_has_the_name_of_the_process() -> None:
    loaded, (line,) = ran("log.info('served', services=2)")
    assert loaded == ["False", "True"]
    assert (line["event"], line["process"], line["services"]) == ("served", "host", 2)


def test_what_was_put_off_is_done_on_wish_and_then_others_write_too() -> None:
    loaded, (line,) = ran("logging_setup_now(); import logging; logging.getLogger('nats').warning('lost')")
    assert loaded == ["False", "True"]
    assert (line["event"], line["level"], line["process"]) == ("lost", "warning", "host")


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(TapelineError, match="'LOUD' is no level"):
        logging_setup_later("host", level="LOUD")
