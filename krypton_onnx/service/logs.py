"""Logs as JSON, one object a line on standard error."""

import logging.config

from pythonjsonlogger.core import RESERVED_ATTRS

_CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "format": "{asctime}{levelname}{name}{message}",
            "style": "{",
            "reserved_attrs": [*RESERVED_ATTRS, "color_message"],  # which uvicorn adds
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        }
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"level": "INFO", "handlers": ["stderr"]},
}


def log_as_json() -> None:
    """Send all loggers' messages there, those of libraries and warnings included."""
    logging.config.dictConfig(_CONFIG)
    logging.captureWarnings(True)
