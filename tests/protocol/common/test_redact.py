"""What a configuration may show."""

import pytest

from headrace.protocol.common.redact import redact


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql+psycopg://me:pass@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql+psycopg://me:p@ss@db/x", "postgresql+psycopg://***@db/x"),
        ("postgresql+psycopg://db/x?user=a&password=b#c", "postgresql+psycopg://db/x?user=a&password=***#c"),
        ("https://host/tools?api_key=abc&n=1", "https://host/tools?api_key=***&n=1"),
        ("sqlite:////srv/responses.db", "sqlite:////srv/responses.db"),
        ("org/model@main", "org/model@main"),
        ({"api_key": "abc", "max_tokens": 8}, {"api_key": "***", "max_tokens": 8}),
        ({"HF_TOKEN": "abc", "token": None}, {"HF_TOKEN": "***", "token": None}),
        ({"deep": [{"db_password": "x"}]}, {"deep": [{"db_password": "***"}]}),
        ({"secret": ["y"], "port": "a"}, {"secret": ["***"], "port": "a"}),
        ({"Api-Key": "x", "a_token": {"b": "c"}}, {"Api-Key": "***", "a_token": {"b": "***"}}),
        ({"password": ""}, {"password": ""}),
    ],
)  # fmt: skip
def test_secrets_are_masked(given: object, shown: object) -> None:
    assert redact(given) == shown
