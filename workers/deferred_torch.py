"""Import torch without its parts for exporting, and for tensors without data, until they are used.

They are a quarter of the time that `import torch` takes, and a worker whose program is cached uses
none of them. Such a module is in place, but empty: reading an attribute of it loads it, and so does
the import of a library that may need what it registers.
"""

import importlib.abc
import importlib.machinery
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_DEFERRED = ("torch.export", "torch._meta_registrations")  # in the order in which torch loads them
_NEED_ALL = ("transformers", "torch._dynamo", "torch._inductor")
_lock = threading.RLock()


def defer_torch_modules() -> None:
    """Defer the modules in the imports of torch from now on; nothing if torch is imported."""
    if "torch" not in sys.modules and not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def load_deferred() -> None:
    """Load the modules that are still deferred."""
    for name in _DEFERRED:
        module = sys.modules.get(name)
        if isinstance(module, _DeferredModule):
            _load(module)


class _DeferredModule(ModuleType):
    """A module of torch that is loaded when one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        # Python itself asks modules for names like __wrapped__; they load nothing.
        if not name.startswith("__"):
            with _lock:
                _load(self)
                if name in self.__dict__:
                    return self.__dict__[name]
                own = self.__dict__.get("__getattr__")  # of the module's code
                if own is not None:
                    return own(name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _load(module: ModuleType) -> None:
    """Execute a deferred module's code; other threads wait until that is done."""
    with _lock:
        loader = module.__dict__.pop("_headrace_loader", None)
        if loader is not None:
            loader.exec_module(module)
            module.__class__ = ModuleType


class _Loader(importlib.abc.Loader):
    """Leaves a module empty. loader: loads it later."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_headrace_loader"] = self._loader
        module.__class__ = _DeferredModule


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to defer, and sees the imports before which they must be loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name in _NEED_ALL:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            load_deferred()
        elif name in _DEFERRED:
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Loader(spec.loader)
                return spec
        return None
