#!/usr/bin/env bash
# openai's `client.chat.completions.stream()` gathers the chunks of a stream to a final completion.
# Servers of open models send more than OpenAI's API has, such as `stop_reason` with the last chunk of
# a choice.
#
# A good guess: the final choice holds such a key, as it holds `finish_reason` of the same chunk and
# as further keys of the chunk itself are kept.
# What happens: of a choice's later chunks only the keys that the SDK knows are taken. A further key
# is in the final choice only if the choice's first chunk has it, with that chunk's value, so a null
# there stays null. The same holds for further keys beside `choices`.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0

cat >"$folder/stream.py" <<'PY'
import json

import httpx2 as httpx
import openai


def chunk(choice: dict, **more: object) -> str:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return f"data: {json.dumps(body | {'choices': [{'index': 0, **choice}]} | more)}\n\n"


def final(first: dict) -> openai.types.chat.ChatCompletion:
    """Return the final completion of a stream; first: further keys of its first chunk's choice."""
    text = chunk({"delta": {"role": "assistant", "content": "Hi"}, "finish_reason": None, **first})
    text += chunk({"delta": {}, "finish_reason": "stop", "stop_reason": "END"}, further=1)
    text += "data: [DONE]\n\n"
    answer = httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
    transport = httpx.MockTransport(lambda request: answer)
    client = openai.OpenAI(
        base_url="http://server/v1", api_key="-", http_client=httpx.Client(transport=transport)
    )
    question = [{"role": "user", "content": "Hello"}]
    with client.chat.completions.stream(model="m", messages=question) as stream:
        return stream.get_final_completion()


for first in ({}, {"stop_reason": None}):
    whole = final(first)
    choice = whole.choices[0]
    extra = choice.model_extra or {}
    more = (whole.model_extra or {}).get("further", "missing")
    print(choice.finish_reason, extra.get("stop_reason", "missing"), more)
PY
echo "openai $("$folder/venv/bin/python" -c 'import openai; print(openai.__version__)')"
seen="$("$folder/venv/bin/python" -W ignore "$folder/stream.py")"
echo "finish_reason, stop_reason, a key beside the choices (the guess: stop END 1, twice):"
echo "$seen"
[ "$seen" = "stop missing missing
stop None missing" ]
