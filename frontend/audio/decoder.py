"""A process that decodes clients' files, so that a bad one harms nothing else.

Gets an order with a file's descriptor and answers with the first window, then with the next one for
each further order. The parent process limits the time of each file; this process limits its memory.
Imports neither torch nor the frontend's application.
"""

import argparse
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from headrace.frontend.audio.cut import Cut, Cutter
from headrace.frontend.audio.decode import decode
from headrace.frontend.audio.framing import receive_order, send_answer
from headrace.frontend.audio.log_mel import log_mel
from headrace.frontend.audio.messages import (
    AudioRefusal,
    AudioRejected,
    AudioSummary,
    AudioWindow,
    DecodeFile,
    DecoderAnswer,
    DecoderReady,
)
from headrace.frontend.audio.mono import Samples
from headrace.frontend.audio.sound_change import sound_change_db
from headrace.protocol.common.process import become_child
from headrace.protocol.logs.set_up import inherited_options

log = logging.getLogger("headrace.frontend.decoders")

_MAX_MEMORY_BYTES = 512 * 1024**2  # for decoding, besides the process itself
_NICENESS = 5  # workers and frontends come first


def decode_file(order: DecodeFile, file: BinaryIO) -> Iterator[AudioWindow | AudioSummary]:
    """Yield a file's windows, then the summary. Raises AudioRejected, perhaps after some."""
    cutter = Cutter(order.format.sample_rate, order.format.window_s)
    index = 0
    for cut in _cuts(cutter, decode(file, order.format.sample_rate, order.max_duration_s)):
        duration_s = len(cut.samples) / order.format.sample_rate
        features = log_mel(cut.samples, order.format)
        change_db = sound_change_db(features, order.format, duration_s)
        yield AudioWindow(index, cut.start_s, duration_s, features.tobytes(), change_db)
        index += 1
    yield AudioSummary(cutter.duration_s, index)


def _cuts(cutter: Cutter, blocks: Iterator[Samples]) -> Iterator[Cut]:
    for samples in blocks:
        yield from cutter.feed(samples)
    yield from cutter.end()


def _next(file: Iterator[AudioWindow | AudioSummary]) -> DecoderAnswer:
    try:
        return next(file)
    except AudioRejected as rejected:
        return AudioRefusal(rejected.reason)
    except MemoryError:
        return AudioRefusal("the file needs too much memory to decode")
    except Exception:  # a bug here, or of a library
        log.exception("decoding a file failed")
        return AudioRefusal(AudioRejected.undecodable().reason)


def serve(connection: socket.socket) -> None:
    """Answer orders until the frontend ends."""
    send_answer(connection, DecoderReady())
    current: Iterator[AudioWindow | AudioSummary] = iter(())
    source: BinaryIO | None = None
    while True:
        order, descriptor = receive_order(connection)
        if isinstance(order, DecodeFile):
            if source is not None:
                source.close()
            source = os.fdopen(descriptor, "rb")
            current = decode_file(order, source)
        answer = _next(current)
        if source is not None and not isinstance(answer, AudioWindow):
            source.close()  # an uploaded file's memory is free then
        send_answer(connection, answer)


def _silence_libraries() -> None:
    """Keep what libraries print to standard error, by themselves, from the log."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + _MAX_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    parser = argparse.ArgumentParser(prog="headrace-decoder")
    parser.add_argument("--parent-pid", type=int, required=True)
    connection = socket.socket(fileno=sys.stdin.fileno())
    _silence_libraries()
    become_child("decoder", parser.parse_args().parent_pid, inherited_options())
    os.nice(_NICENESS)
    _limit_memory()
    try:
        serve(connection)
    except (BrokenPipeError, ConnectionError, EOFError):  # the frontend ended
        os._exit(0)


if __name__ == "__main__":
    main()
