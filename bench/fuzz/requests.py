"""Send made-up bodies to all routes that take one, and check that nothing but answers comes back.

The bodies are drawn from the request models in the server's own OpenAPI document, with values of
other kinds in between, so that new routes and fields are in without a change here. Each answer must
be one of the API's (no 5xx, errors in their shape, streams with their end), no connection may be
closed without one, and the workers must be the same ones afterwards. Starts a pool of the fake
engine unless `--url` names a server. Hypothesis shrinks a body that breaks a rule; it is printed.

Usage: python -m bench.fuzz.requests [--minutes 5] [--url URL] [--seed 0] [--only /v1/messages]
"""

import argparse
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
from hypothesis import HealthCheck, Phase, given, seed, settings

from bench.fuzz.bodies import bodies
from bench.load.layouts import ROOT

EXAMPLES = 50  # of a route in a round
TIMEOUT_S = 60.0
ALLOWED = frozenset({200, 400, 404, 408, 409, 413, 415, 429})
POOL_FLAGS = (
    *("--enable-admin", "--enable-lora", "--min-workers", "1", "--max-workers", "1"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)


class RuleBroken(Exception):
    """An answer, or its absence, that no request may lead to."""


def check(path: str, response: httpx.Response) -> None:
    """Check one answer. Raises RuleBroken if no request may be answered so."""
    status, text = response.status_code, response.text
    if status not in ALLOWED:
        raise RuleBroken(f"status {status}: {text[:500]}")
    is_stream = response.headers.get("content-type", "").startswith("text/event-stream")
    if status == 200:
        if is_stream:
            _check_stream(path, text)
        elif text and response.headers.get("content-type") == "application/json":
            json.loads(text)
        return
    body = json.loads(text)
    if path.startswith("/v1/messages"):
        if body.get("type") != "error" or set(body["error"]) - {"details"} != {"type", "message"}:
            raise RuleBroken(f"not Anthropic's error shape: {text[:500]}")
    elif set(body) != {"error"} or set(body["error"]) != {"message", "type", "param", "code"}:
        raise RuleBroken(f"not the API's error shape: {text[:500]}")
    elif body["error"]["code"] != status or "Traceback" in text:
        raise RuleBroken(f"a wrong code, or a traceback: {text[:500]}")


def _check_stream(path: str, text: str) -> None:
    ends = {"/v1/messages": "message_stop", "/v1/responses": "response.", "": "data: [DONE]"}
    end = ends.get(path, ends[""])
    if not text.endswith("\n\n") or end not in text.strip().split("\n\n")[-1]:
        raise RuleBroken(f"a stream without its end: {text[-300:]!r}")
    if '"error":' in text and '"code":5' in text:
        raise RuleBroken(f"an error of the server in a stream: {text[-500:]!r}")


def workers_of(client: httpx.Client) -> list[str]:
    """Return the workers' names, which are never used again."""
    groups = client.get("/health?verbose").json()["groups"]
    if isinstance(groups, dict):
        groups = list(groups.values())
    return sorted(worker["name"] for group in groups for worker in group["workers"])


def routes(document: dict[str, Any], only: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the method, path and schema of each route that takes a JSON body."""
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            if schema is not None and only in path:
                found.append((method, path, schema))
    return found


def fuzz_route(
    client: httpx.Client,
    route: tuple[str, str, dict[str, Any]],
    components: dict[str, Any],
    model: str,
    number: int,
    counts: Counter[tuple[str, int]],
) -> None:
    """Send bodies to one route. Raises RuleBroken with the smallest body that breaks a rule."""
    method, path, schema = route

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(bodies(schema, components, model))
    def send(body: Any) -> None:
        # Hypothesis draws half surrogates; JSON can say them.
        data = json.dumps(body).encode()
        try:
            response = client.request(
                method, path, content=data, headers={"content-type": "application/json"}
            )
            check(path, response)
        except (httpx.HTTPError, RuleBroken, ValueError, KeyError) as error:
            raise RuleBroken(f"{method} {path} {data.decode()}\n{error!r}") from error
        counts[path, response.status_code] += 1

    send()


@contextlib.contextmanager
def server(url: str | None) -> Iterator[str]:
    """Yield the URL of the server to ask; one of our own if none is given."""
    if url is not None:
        yield url
        return
    from bench.load.fake_pools import pool

    with pool(ROOT, None, 0.0, POOL_FLAGS) as running:
        yield running.url


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--url", help="a running server, instead of a pool of our own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of the paths to ask")
    args = parser.parse_args()
    counts: Counter[tuple[str, int]] = Counter()
    with server(args.url) as url, httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        document = client.get("/openapi.json").json()
        components = document["components"]["schemas"]
        model = client.get("/v1/models").json()["data"][0]["id"]
        before = workers_of(client)
        number, end = args.seed, time.monotonic() + 60 * args.minutes
        asked = routes(document, args.only)
        while time.monotonic() < end:
            for route in asked:
                try:
                    fuzz_route(client, route, components, model, number, counts)
                except RuleBroken as error:
                    print(f"seed {number}: {error}")
                    return 1
            if workers_of(client) != before:
                print(f"seed {number}: the workers were {before}, now {workers_of(client)}")
                return 1
            number += 1
    for (path, status), count in sorted(counts.items()):
        print(f"{path} {status}: {count}")
    print(f"{counts.total()} requests, seeds {args.seed} to {number - 1}: no rule broken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
