"""Errors of the chat behind a response are those of the response, with its names of fields."""

import pytest

from headrace.frontend.errors import (
    ApiError,
    BadRequest,
    DeadlineExceeded,
    OutOfResources,
    OutOfSpace,
    Stopping,
)
from headrace.frontend.rate_limits.rate_limits import RateLimited
from headrace.frontend.responses.request.chat_request import rename_fields

ERRORS: list[ApiError] = [
    DeadlineExceeded(),
    OutOfResources(),
    OutOfSpace(),
    Stopping(),
    RateLimited("tokens", "This key's limit is reached", 7.0),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_without_fields_stay_as_they_are(error: ApiError) -> None:
    renamed = rename_fields(error)
    assert type(renamed) is type(error)
    assert renamed.status == error.status
    assert renamed.body() == error.body()
    assert renamed.headers == error.headers
    assert str(renamed) == str(error)


def test_fields_have_the_names_of_the_request() -> None:
    renamed = rename_fields(BadRequest("messages.0.content: is wrong.", "messages"))
    assert isinstance(renamed, BadRequest)
    assert renamed.message == "input.0.content: is wrong."
    assert renamed.param == "input"
