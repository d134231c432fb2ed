"""What Schemathesis checks of each answer; it loads this module by SCHEMATHESIS_HOOKS."""

import json
import os
import re
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response

AnyCase = Case[Any]
MUST_REJECT = "HEADRACE_FUZZ_MUST_REJECT"  # set: requests carry no key, or a wrong one
PUBLIC = frozenset({"/health", "/livez", "/ping", "/", "/docs"})
_LEAKS = re.compile(r"0x[0-9a-f]{6,}|Traceback|site-packages|\.py\b")


@schemathesis.check
def honest_errors(ctx: CheckContext, response: Response, case: AnyCase) -> bool | None:
    """Fail for a 5xx that does not say when to retry, and for an error that shows internals."""
    status, headers = response.status_code, response.headers
    if status >= 500 and not (status == 503 and "retry-after" in headers):
        raise AssertionError(f"status {status}: {response.text[:300]}")
    if status >= 400 and _LEAKS.search(response.text):
        raise AssertionError(f"an error shows internals: {response.text[:300]}")
    if status >= 400 and response.text and case.method.upper() != "HEAD":
        _check_shape(case.path, response.text)
    return None


def _check_shape(path: str, text: str) -> None:
    body = json.loads(text)
    if set(body) == {"detail"} and not path.startswith("/v1/messages"):
        return  # no such route, or not with this method
    if body == {"error": "Unauthorized"} and not path.startswith("/v1/messages"):
        return  # a key is missing
    assert "error" in body, f"not the API's error shape: {text[:300]}"
    error = body["error"]
    wanted = {"message", "type"} | (set() if path.startswith("/v1/messages") else {"param", "code"})
    assert wanted <= error.keys(), f"not the API's error shape: {text[:300]}"


@schemathesis.check
def rejected_without_key(ctx: CheckContext, response: Response, case: AnyCase) -> bool | None:
    """Fail for a route that answers without a key; only where none of the requests has one."""
    if os.environ.get(MUST_REJECT) and case.path not in PUBLIC:
        assert response.status_code == 401, f"status {response.status_code} without a key"
    return None
