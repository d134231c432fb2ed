import json

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def events(body: str) -> list:
    lines = body.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_answers_in_one_piece(client, pool):
    response = await client.post("/v1/chat/completions", json={"messages": QUESTION})
    assert response.status_code == 200
    body = await response.get_json()
    assert body["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert body["choices"][0]["finish_reason"] == "stop"
    prompt = len(pool.requests[0].prompt_token_ids)
    assert body["usage"]["prompt_tokens"] == prompt
    assert body["usage"]["completion_tokens"] == 8


async def test_streams_role_text_end(client):
    response = await client.post(
        "/v1/chat/completions",
        json={"messages": QUESTION, "stream": True, "stream_options": {"include_usage": True}},
    )
    chunks = events(await response.get_data(as_text=True))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert (
        "".join(delta.get("content", "") for delta in deltas) == "The capital of France is Paris."
    )
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8
