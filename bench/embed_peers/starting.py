"""Start all sides that there are, and name those that do not start."""

import argparse
import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.embed_peers import servers
from bench.embed_peers.catalogue import PEERS, REFERENCE, Peer
from bench.embed_peers.install import PREPARED, PeerError, prepare, prepared_folder, python_of
from bench.embed_peers.servers import EmbedServerSettings
from bench.embed_peers.sides import EmbedSide, encoder

Start = Callable[[], AbstractContextManager[EmbedSide]]


def llama_name(precision: str) -> str:
    """Return the name of the side that runs a GGUF of this precision."""
    return f"llama.cpp-{precision}"


def start_all(
    stack: contextlib.ExitStack,
    given: argparse.Namespace,
    flags: Sequence[str],
    longest: int,
    folder: Path,
) -> list[EmbedSide]:
    """Start the sides of the command line. folder: for logs."""
    settings = EmbedServerSettings(given.model, given.threads, longest, given.per_request, folder)
    sides = []
    for name, start in candidates(given, flags, settings):
        try:
            sides.append(stack.enter_context(start()))
        except (PeerError, OSError) as error:
            print(f"{name}: left out: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{name}: started", flush=True)
    return sides


def candidates(
    given: argparse.Namespace, flags: Sequence[str], settings: EmbedServerSettings
) -> Iterator[tuple[str, Start]]:
    """Yield the sides asked for, ours first: their names and how to start them."""
    for precision in given.precisions:
        yield (
            f"headrace-{precision}",
            functools.partial(servers.headrace, precision, settings, flags),
        )
    for peer in PEERS:
        # The reference runs in any case: the vectors of all others are compared with its own.
        fits = peer.precision in given.precisions or peer.name == REFERENCE
        if given.peers is not None and fits and peer.name in given.only:
            yield peer.name, functools.partial(_peer, peer, given.peers, settings)
    for precision, file in given.ggufs.items():
        if given.llama is not None and precision in given.precisions:
            start = functools.partial(servers.llama, given.llama, file, precision, settings)
            yield llama_name(precision), start


@contextlib.contextmanager
def _peer(peer: Peer, folder: Path, settings: EmbedServerSettings) -> Iterator[EmbedSide]:
    """Run a peer of the catalogue. Raises PeerError if it does not start."""
    python = python_of(folder, peer.environment)
    if not peer.runtime:
        with servers.infinity(peer.name, peer.precision, settings, python) as server:
            yield server
        return
    model = settings.model.resolve()
    # fastembed reads the file that was exported for the peer with ONNX.
    kind = "onnx" if peer.runtime == "fastembed" else peer.runtime
    if kind in PREPARED:
        prepare(folder, model, kind)
        model = prepared_folder(folder, model, kind)
    words = [str(python), peer.runtime, str(model), peer.precision]
    words += [str(settings.threads), str(settings.max_tokens)]
    started = encoder(peer.name, peer.precision, words, settings.folder, settings.threads)
    with started as side:
        yield side
