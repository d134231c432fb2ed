#!/usr/bin/env bash
# anthropic's `client.beta.messages.tool_runner()` asks a model, runs the tools that it calls and asks
# again with their results.
#
# A good guess: each request holds the whole conversation, as the Messages API wants it.
# What happens: the runner adds `thread`, and from its second request on sends the newest message
# only. A server that ignores fields which it does not know, as compatible servers do, answers 200 to
# a result without its question. The runner sends everything only after a 400 whose error has
# `details.error_code` "thread_unsupported_request".
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0

cat >"$folder/runner.py" <<'PY'
import json
import sys

import anthropic
import httpx2 as httpx
from anthropic import beta_tool

DETAILS = {"error_code": "thread_unsupported_request"}
CALL = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}}
TEXT = {"type": "text", "text": "Sunny."}


@beta_tool
def weather(city: str) -> str:
    """Tell the weather of a city."""
    return "sunny"


def run(knows_threads: bool) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if "thread" in body and knows_threads:
            error = {"type": "invalid_request_error", "message": "no threads", "details": DETAILS}
            return httpx.Response(400, json={"type": "error", "error": error})
        asked.append(len(body["messages"]))
        content = [CALL] if len(asked) == 1 else [TEXT]
        message = {"id": "m", "type": "message", "role": "assistant", "model": "m"}
        reason = "tool_use" if len(asked) == 1 else "end_turn"
        usage = {"input_tokens": 1, "output_tokens": 1}
        end = {"stop_reason": reason, "stop_sequence": None, "usage": usage}
        return httpx.Response(200, json=message | {"content": content} | end)

    client = anthropic.Anthropic(
        base_url="http://server", api_key="-",
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
    )
    question = [{"role": "user", "content": "Weather in Rome?"}]
    runner = client.beta.messages.tool_runner(
        model="m", max_tokens=50, tools=[weather], messages=question
    )
    runner.until_done()
    print(*asked)


run(knows_threads=sys.argv[1] == "refuses")
PY
python="$folder/venv/bin/python"
echo "anthropic $("$python" -c 'import anthropic; print(anthropic.__version__)')"
ignored="$("$python" -W ignore "$folder/runner.py" ignores)"
refused="$("$python" -W ignore "$folder/runner.py" refuses)"
echo "messages in each request (the guess: 1 3): $ignored where threads are ignored,"
echo "$refused where they are refused"
[ "$ignored" = "1 1" ] && [ "$refused" = "1 3" ]
