"""Logs: structlog to stderr, JSON where nobody watches, pretty on a terminal; stdlib logging goes the same way.

Library code asks for a logger with `structlog.get_logger(__name__)` or `logging.getLogger(__name__)`; both end up here.
Nothing is logged per record at info.
"""

import io
import logging
import os
import sys
from typing import Final, TextIO

import structlog

from commonplace.terminal import every_line, one_line

LEVELS: Final = ("debug", "info", "warning", "error")


def configure(level: str = "info", *, stream: TextIO | None = None, json: bool | None = None) -> None:
    """Route all logging of this process to `stream` (stderr) from `level` up; JSON lines unless it is a terminal."""
    target = stream or sys.stderr
    as_json = not target.isatty() if json is None else json
    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(as_json)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _renderers(as_json: bool) -> list[structlog.typing.Processor]:
    if as_json:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    colors = "NO_COLOR" not in os.environ
    return [_printable, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback)]


def _printable(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What is told may quote records: the renderer escapes only texts with spaces or quotes, and never the event."""
    return {key: one_line(value) if isinstance(value, str) else value for key, value in event.items()}


def _write_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """As structlog's plain one; its rich one prints the message raw, and all locals, passwords among them."""
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, exc_info)
    stream.write(every_line(plain.getvalue()))
