"""Logs: JSON off a terminal, stdlib logging the same way, levels kept."""

import io
import json
import logging

import pytest
import structlog

from commonplace import logs


@pytest.fixture(autouse=True)
def _put_back() -> object:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_structlog_and_stdlib_become_json_lines_off_a_terminal() -> None:
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    structlog.get_logger("a").info("caught up", hosts=3)
    logging.getLogger("b").warning("broker %s went away", "k1", extra={"port": 9})
    first, second = lines(stream)
    assert (first["event"], first["hosts"], first["level"], first["logger"]) == ("caught up", 3, "info", "a")
    assert (second["event"], second["port"], second["level"]) == ("broker k1 went away", 9, "warning")
    assert str(first["timestamp"]).endswith("Z")


def test_level_holds_for_both() -> None:
    stream = io.StringIO()
    logs.configure("warning", stream=stream)
    structlog.get_logger("a").info("no")
    logging.getLogger("b").info("no")
    assert stream.getvalue() == ""


def test_traceback_is_part_of_the_line() -> None:
    stream = io.StringIO()
    logs.configure("info", stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger("a").exception("failed")
    assert "ValueError: why" in str(lines(stream)[0]["exception"])


def test_what_records_say_cannot_drive_the_terminal_that_logs_go_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    logs.configure("info", stream=stream, json=False)
    logging.getLogger("a").warning("put aside: %s", "\x9b31m\n\x1b[2J\u202e")
    structlog.get_logger("b").info("host\x85", name="a\x9b31m", other="\x1b[2J")
    try:
        raise ValueError("lock \x9b2J")
    except ValueError:
        logging.getLogger("c").exception("failed\x90")
    told = stream.getvalue()
    assert all(line.isprintable() for line in told.split("\n")), told
    assert r"put aside: \x9b31m\n\x1b[2J\u202e" in told
    assert r"name=a\x9b31m" in told
    assert r"ValueError: lock \x9b2J" in told
