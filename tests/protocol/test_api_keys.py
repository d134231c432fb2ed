"""Keys without their secrets."""

import json

import pytest
from pydantic import ValidationError

from headrace.protocol.access_options import AccessOptions
from headrace.protocol.api_keys import ApiKey, digest_of, unnamed_key

SECRET = "se-cr-et-0123456789"


def test_names_are_stable_and_tell_nothing() -> None:
    first, second = unnamed_key(SECRET), unnamed_key("another", is_admin=True)
    assert first.name == unnamed_key(SECRET).name != second.name
    assert (first.tenant, first.is_admin, second.is_admin) == (first.name, False, True)
    # A name from a fast hash would let readers of metrics try words by the million.
    assert first.name.removeprefix("key-") not in digest_of(SECRET)
    one_way = AccessOptions(api_keys=(SECRET, "another"))
    other_way = AccessOptions(api_keys=("another", SECRET))
    assert {key.name for key in one_way.api_keys} == {key.name for key in other_way.api_keys}


def test_options_hold_no_secret() -> None:
    options = AccessOptions.model_validate(
        {"api_keys": [SECRET, "b-key", SECRET], "admin_keys": "c-key", "insecure": True}
    )
    assert [key.digest for key in options.api_keys] == [digest_of(SECRET), digest_of("b-key")]
    assert [key.is_admin for key in (*options.api_keys, *options.admin_keys)] == [False] * 2 + [
        True
    ]
    written = options.model_dump_json()
    assert AccessOptions.model_validate_json(written) == options
    assert AccessOptions(**options.model_dump()) == options
    assert digest_of(SECRET) in written
    for text in (repr(options), str(options), written):
        assert SECRET not in text
    assert digest_of(SECRET) not in repr(options)


@pytest.mark.parametrize(
    "values",
    [
        {"api_keys": [SECRET], "admin_keys": [SECRET]},
        {"api_keys": [SECRET, ""]},
        {"api_keys": [SECRET, 5]},
        {"api_keys": [f"{SECRET}\n"]},
        {"api_keys": {"a": SECRET}},
        {"admin_keys": [SECRET + " "]},
        {"api_keys": [SECRET], "insecure": SECRET},
        {"api_keys": [{"name": SECRET, "digest": SECRET, "tenant": "a b"}]},
    ],
)
def test_errors_hold_no_secret(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        AccessOptions.model_validate(values)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_a_key_is_needed_where_there_is_any_way_to_have_one() -> None:
    assert not AccessOptions().needs_key
    for values in ({"api_keys": ["a"]}, {"admin_keys": ["a"]}, {"api_key_file": "keys.toml"}):
        assert AccessOptions.model_validate(values).needs_key


def test_a_key_does_not_show_its_digest() -> None:
    key = ApiKey(name="a", digest=digest_of(SECRET), tenant="a")
    assert json.loads(key.model_dump_json())["digest"] not in repr(key)
