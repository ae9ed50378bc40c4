"""Logs for machines: one JSON object per line."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import IO, Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Time (UTC), level, logger, message, what `extra` brings, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        body: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        body |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info and record.exc_info[0] is not None:
            body["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(body, default=str)


def json_logs(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """From now on all logs of the process go to `stream` (default stderr) as JSON lines."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
