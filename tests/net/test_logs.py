"""Logs as JSON lines."""

from __future__ import annotations

import io
import json
import logging

import pytest

from muster.net.logs import JsonLines


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> logging.Logger:
    logger = logging.Logger("muster.test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    return logger


def test_a_line_holds_what_was_said_and_what_was_added(log: logging.Logger, stream: io.StringIO) -> None:
    log.warning("%d clients\nare lost", 3, extra={"round": 7})
    (line,) = stream.getvalue().splitlines()
    body = json.loads(line)
    assert body.pop("time").endswith("+00:00")
    expected = {"level": "warning", "logger": "muster.test", "message": "3 clients\nare lost", "round": 7}
    assert body == expected


def test_an_exception_brings_its_traceback_in_the_same_line(log: logging.Logger, stream: io.StringIO) -> None:
    try:
        raise OSError("gone")
    except OSError:
        log.exception("it failed")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["traceback"].rstrip().endswith("OSError: gone")
