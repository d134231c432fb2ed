#!/usr/bin/env bash
# h11's Connection takes `max_incomplete_event_size`, which servers such as Hypercorn and uvicorn offer
# as the limit on a request's headers.
#
# A good guess: with a limit of 4 kB a request with 10 kB of headers is refused.
# What happens: only an event that is still incomplete after a read is measured. Headers of any size
# that arrive in one piece are taken; the same bytes in two pieces are refused.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check h11==0.16.0

cat >"$folder/headers.py" <<'PY'
import h11

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"v" * 90) for n in range(100))
REQUEST = HEAD + b"\r\n"


def read(*pieces: bytes) -> str:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=4096)
    try:
        for piece in pieces:
            connection.receive_data(piece)
            event = connection.next_event()
        return type(event).__name__
    except h11.RemoteProtocolError as error:
        return str(error.error_status_hint)


print(len(REQUEST), read(REQUEST), read(REQUEST[:5000], REQUEST[5000:]))
PY
echo "h11 $("$folder/venv/bin/python" -c 'import h11; print(h11.__version__)')"
seen="$("$folder/venv/bin/python" "$folder/headers.py")"
echo "bytes of the request, in one piece, in two (limit 4096; the guess: 431 431): $seen"
[ "${seen#* }" = "Request 431" ]
