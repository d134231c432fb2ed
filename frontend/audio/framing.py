"""Orders and answers on the socket between a frontend and a decoder process.

Each order is answered before the next is sent, and is sent at once, so that a single call receives
it whole. Answers are large: each comes after its length.
"""

import asyncio
import socket
import struct

from headrace.frontend.audio.messages import ANSWERS, ORDERS, DecoderAnswer, DecoderOrder

_LENGTH = struct.Struct("<I")
_MAX_ORDER_BYTES = 4096


def send_order(connection: socket.socket, order: DecoderOrder, descriptor: int | None) -> None:
    files = [] if descriptor is None else [descriptor]
    socket.send_fds(connection, [ORDERS.encode(order)], files)


def receive_order(connection: socket.socket) -> tuple[DecoderOrder, int]:
    """Return an order and its file's descriptor, or -1. Raises EOFError if no more will come."""
    data, files, _, _ = socket.recv_fds(connection, _MAX_ORDER_BYTES, 1)
    if not data:
        raise EOFError
    return ORDERS.decode(data), files[0] if files else -1


def send_answer(connection: socket.socket, answer: DecoderAnswer) -> None:
    data = ANSWERS.encode(answer)
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


async def receive_answer(connection: socket.socket) -> DecoderAnswer:
    """Return the next answer. Raises EOFError or OSError if the process has ended."""
    (length,) = _LENGTH.unpack(await _receive(connection, _LENGTH.size))
    return ANSWERS.decode(bytes(await _receive(connection, length)))


async def _receive(connection: socket.socket, size: int) -> bytearray:
    loop = asyncio.get_running_loop()
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = await loop.sock_recv_into(connection, rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data
