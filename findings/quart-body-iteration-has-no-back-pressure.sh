#!/usr/bin/env bash
# quart's `request.body` can be iterated over; its docstring says that this takes the body "without
# building up memory usage".
#
# A good guess: a handler that reads slowly slows its client down: the server receives the next piece
# when the last ones have been taken.
# What happens: the pieces are received as fast as they come and wait in memory. A handler that has
# taken one piece and then waits has the whole body received meanwhile.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check quart==0.22.0

cat >"$folder/upload.py" <<'PY'
import asyncio

from quart import Quart, request

PIECES = 200
app = Quart("upload")
app.config["MAX_CONTENT_LENGTH"] = None
received = 0


@app.post("/")
async def upload() -> str:
    first = await anext(aiter(request.body))
    await asyncio.sleep(0.5)  # such as for a database
    print(len(first), "bytes taken,", received, "bytes received")
    return ""


async def receive() -> dict:
    global received
    if received >= PIECES * 65536:
        await asyncio.Event().wait()
    await asyncio.sleep(0)
    received += 65536
    return {"type": "http.request", "body": bytes(65536), "more_body": received < PIECES * 65536}


async def send(message: dict) -> None:
    pass


async def main() -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/", "raw_path": b"/", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"a")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        "extensions": {},
    }
    await asyncio.wait_for(app(scope, receive, send), 20)


asyncio.run(main())
PY
echo "quart $("$folder/venv/bin/python" -c 'from importlib.metadata import version as v; print(v("quart"))')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/upload.py")"
echo "$seen (the guess: about as many received as taken)"
[ "${seen##*, }" = "$((200 * 65536)) bytes received" ]
