"""Frontends of models that pool, on a fake pool."""

from typing import Any

from quart.typing import TestClientProtocol as Client

from headrace.frontend.text.model_tokenizer import ModelTokenizer
from headrace.protocol.text import PoolingInfo
from tests.frontend.conftest import MAKE_APP


def client_of(
    make_app: MAKE_APP, text: ModelTokenizer, max_numbers: Any = 2**24, **info: Any
) -> Client:
    """A client of a model whose PoolingInfo has these fields."""
    pooling = PoolingInfo(**{"size": 3, **info})
    changed = text.info.model_copy(update={"pooling": pooling})
    model = ModelTokenizer(changed, text.backend)
    return make_app(model=model, max_numbers=max_numbers).test_client()


async def post(client: Client, path: str, **fields: Any) -> tuple[int, dict[str, Any]]:
    response = await client.post(path, json=fields)
    return response.status_code, await response.get_json()


async def rejected(client: Client, path: str, **fields: Any) -> str | None:
    """The field that the error of a request names."""
    status, body = await post(client, path, **fields)
    assert status == 400, body
    param: str | None = body["error"]["param"]
    return param
