#!/usr/bin/env bash
# GOAWAY with a last stream id lets a server end an HTTP/2 connection in good order: streams up to
# that id are still answered (RFC 9113, 6.8). h2 is the state machine of httpx and of Hypercorn.
#
# A good guess: a client on h2 reads the rest of an answer after a GOAWAY that names its stream.
# What happens: the first DATA after GOAWAY raises ProtocolError, so that the answer in flight is
# lost. A server whose clients may be built on h2 has to finish its streams before it says goodbye.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h2==4.4.0 hyperframe==6.1.0

cat >"$folder/goaway.py" <<'PY'
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError
from hyperframe.frame import DataFrame, GoAwayFrame

HEADERS = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")]


def answer(with_goaway: bool) -> str:
    client = H2Connection(H2Configuration(client_side=True))
    server = H2Connection(H2Configuration(client_side=False))
    client.initiate_connection()
    client.send_headers(1, HEADERS, end_stream=True)
    server.initiate_connection()
    server.receive_data(client.data_to_send())
    server.send_headers(1, [(":status", "200")])
    data = server.data_to_send()
    if with_goaway:
        data += GoAwayFrame(0, last_stream_id=1).serialize()
    data += DataFrame(1, b"the rest", flags=["END_STREAM"]).serialize()
    try:
        return type(client.receive_data(data)[-1]).__name__
    except ProtocolError as error:
        return type(error).__name__


print(answer(False), answer(True))
PY
echo "h2 $("$folder/venv/bin/python" -c 'import h2; print(h2.__version__)')"
seen="$("$folder/venv/bin/python" "$folder/goaway.py")"
echo "the end of an answer, without and with GOAWAY before it (the guess: StreamEnded twice): $seen"
[ "$seen" = "StreamEnded ProtocolError" ]
