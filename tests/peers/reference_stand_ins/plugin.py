"""Let the reference's tests be imported without the reference, and keep those that ask a server."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import MagicMock

import pytest
import transformers

SERVERS = {"client", "async_client", "server", "openai_client", "default_server_args"}


class _StandIn(ModuleType):
    """A module that has every name."""

    __path__: ClassVar[list[str]] = []  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        made = _KNOWN.get(f"{self.__name__}.{name}")
        if made is None and name.startswith("__"):
            raise AttributeError(name)
        return made if made is not None else MagicMock(name=name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


_from_pretrained = transformers.AutoTokenizer.from_pretrained


@cache
def _tokenizer() -> Any:
    path = Path(importlib.import_module("tests.utils").default_model())
    return _from_pretrained(path.parent, gguf_file=path.name)


class _Platform:
    """A processor."""

    def is_cpu(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return lambda *_: False


class _ModelConfig:
    """What the tests ask of the model, which is always the default one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def get_vocab_size(self) -> int:
        return len(_tokenizer())


_KNOWN: dict[str, Any] = {
    "vllm.config.ModelConfig": _ModelConfig,
    "vllm.tokenizers.get_tokenizer": lambda *_, **__: _tokenizer(),
    "vllm.platforms.current_platform": _Platform(),
    "vllm.version.__version__": importlib.metadata.version("headrace"),
}
# The reference, and what its own unit tests import; the last resort, if they are not installed.
_ABSENT = {"vllm", "fastapi", "starlette", "openai_harmony", "schemathesis", "datasets"}
sys.meta_path.append(_Finder())
transformers.AutoTokenizer.from_pretrained = lambda *_, **__: _tokenizer()  # type: ignore[method-assign]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop tests that look into the reference's own classes."""
    kept = [item for item in items if SERVERS & set(getattr(item, "fixturenames", ()))]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
