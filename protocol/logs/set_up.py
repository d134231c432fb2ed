"""Set up the log of a process: every record on standard error, in one format."""

import atexit
import logging
import os
import sys
import threading
from types import TracebackType
from typing import Any

from headrace.protocol.log_options import LogLevel, LogOptions
from headrace.protocol.logs.config_file import apply_log_config
from headrace.protocol.logs.flood_filter import FloodFilter
from headrace.protocol.logs.formats import JSONFormatter, TextFormatter
from headrace.protocol.logs.record import SafeRecord

ROOT_LOGGER = "headrace"
ACCESS_LOGGER = "headrace.access"
HTTP_LOGGER = "headrace.http"  # of the HTTP server itself
RESPONSE_LOGGER = "headrace.responses"
STACK_LOGGER = "headrace.error_stacks"  # of the errors that clients are told of

# The variable of the environment with the options that helpers inherit.
INHERITED = "HEADRACE_LOG_OPTIONS"

SILENT = logging.CRITICAL + 1

log = logging.getLogger(ROOT_LOGGER)
_floods = FloodFilter()


def set_up_logging(name: str, options: LogOptions) -> None:
    """Log one line per record on standard error, with the process's name, or as the operator's own
    configuration says.

    All loggers of Headrace are below "headrace", and have their level from it. Records of libraries
    go the same way, by the level of the root.

    Raises ValueError, with one line, if that configuration cannot be applied.
    """
    global _floods
    SafeRecord.process_id = name
    logging.setLogRecordFactory(SafeRecord)
    logging.raiseExceptions = False  # no tracebacks of records that cannot be written
    level = options.log_level.upper()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if options.log_format == "json" else TextFormatter())
    # A worker that was forked has the handlers of its fork server.
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger(ROOT_LOGGER).setLevel(level)
    logging.getLogger(ACCESS_LOGGER).setLevel("INFO")  # once it is enabled, at any level
    logging.getLogger(RESPONSE_LOGGER).setLevel("INFO")
    logging.getLogger(HTTP_LOGGER).setLevel(options.http_level)
    is_wanted = options.log_error_stack
    logging.getLogger(STACK_LOGGER).setLevel(level if is_wanted else SILENT)
    if options.log_config is not None:
        apply_log_config(options.log_config)
    else:
        adopt_library_loggers()
    _floods = FloodFilter()
    for each in _handlers():
        each.addFilter(_floods)
    _catch_what_is_not_logged()
    inherited = options.model_dump_json(include={"log_format", "log_config"})
    os.environ[INHERITED] = inherited


def writes_json() -> bool:
    """Return whether all that this process says must be JSON, so that it must not print."""
    text = os.environ.get(INHERITED)
    return text is not None and LogOptions.model_validate_json(text).log_format == "json"


def inherited_options(log_level: LogLevel = "warning") -> LogOptions:
    """Return the options of a process that does not read the pool's configuration, from the
    environment: its log has the form of all other processes' logs."""
    text = os.environ.get(INHERITED)
    options = LogOptions() if text is None else LogOptions.model_validate_json(text)
    return options.model_copy(update={"log_level": log_level})


def adopt_library_loggers() -> None:
    """Let the records of libraries that write to standard error by themselves go the way of all.

    Call it again when more libraries have been imported.
    """
    for logger in _loggers():
        own = [each for each in logger.handlers if type(each) is logging.StreamHandler]
        for handler in own:
            logger.removeHandler(handler)
            logger.propagate = True


def _loggers() -> list[logging.Logger]:
    """Return all loggers but the root."""
    known = logging.root.manager.loggerDict.values()
    return [each for each in known if isinstance(each, logging.Logger)]


def _handlers() -> set[logging.Handler]:
    return {each for logger in (logging.root, *_loggers()) for each in logger.handlers}


def _catch_what_is_not_logged() -> None:
    """Log warnings of Python, and errors that nothing has caught: both would be printed."""
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable
    atexit.register(_floods.sum_up)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        log.critical("an error ends the process", exc_info=(kind, error, traceback))


def _log_of_thread(arguments: Any) -> None:
    if not issubclass(arguments.exc_type, SystemExit):
        log.error("an error ends a thread", exc_info=arguments.exc_value)


def _log_unraisable(arguments: Any) -> None:
    log.error("an error was ignored in %r", arguments.object, exc_info=arguments.exc_value)
