"""LangChain's standard tests for chat models, on the default model.

Left out is what needs a model of more wit, or one that sees and hears.
"""

from typing import Any, ClassVar

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.end_to_end.servers import Server

# LangChain's own warnings are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")

URL = pytest.StashKey[str]()


class _OnServer(ChatModelIntegrationTests):
    """The parameters of all clients. path: of the API."""

    path: ClassVar[str]
    url: ClassVar[str]
    more: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _aim(self, smol_pool: Server) -> None:
        type(self).url = smol_pool.url

    @property
    def chat_model_params(self) -> dict[str, Any]:
        fixed = {"model": "smol", "base_url": self.url + self.path, "api_key": "none"}
        return {**fixed, "temperature": 0, "max_tokens": 300, "max_retries": 0, **self.more}


class TestChatCompletions(_OnServer):
    path = "/v1"
    more: ClassVar[dict[str, Any]] = {"stream_usage": True}

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI


class TestResponses(TestChatCompletions):
    more: ClassVar[dict[str, Any]] = {"use_responses_api": True}


class TestMessages(_OnServer):
    path = ""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
