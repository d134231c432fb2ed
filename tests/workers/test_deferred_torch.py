"""torch without some of its modules: they load when they are used, and before transformers."""

import subprocess
import sys

import pytest

_START = """
import sys
from headrace.workers import deferred_torch
deferred_torch.defer_torch_modules()
import torch
def deferred():
    found = [sys.modules[name] for name in deferred_torch._DEFERRED]
    return [isinstance(each, deferred_torch._DeferredModule) for each in found]
assert deferred() == [True, True], deferred()
assert "torch._decomp" not in sys.modules
with torch.inference_mode():
    assert torch.equal(torch.ones(2, 3) @ torch.ones(3, 2), torch.full((2, 2), 3.0))
assert deferred() == [True, True], deferred()
"""
_ENDS = {
    "transformers": """
import transformers
assert deferred() == [False, False], deferred()
from transformers import LlamaConfig, LlamaForCausalLM
with torch.device("meta"):
    model = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=32, vocab_size=9,
        num_hidden_layers=1, num_attention_heads=2))
    logits = model(torch.zeros((1, 3), dtype=torch.long)).logits
assert logits.shape == (1, 3, 9) and logits.is_meta
""",
    "two threads": """
import threading
found = []
def use():
    found.append(torch._meta_registrations.meta_index_Tensor)
threads = [threading.Thread(target=use) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4 and len(set(found)) == 1
""",
    "an inspection, and an attribute": """
import inspect
inspect.getmodule(sys._getframe())
assert deferred() == [True, True], deferred()
assert "def export" in inspect.getsource(torch.export)
assert callable(torch.export.export)
from torch.export.exported_program import ExportedProgram
assert torch.export.ExportedProgram is ExportedProgram
assert not deferred()[0]
assert not hasattr(torch.export, "no_such_name")
""",
}


@pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS)
def test_deferred_modules_load_when_they_are_needed(end: str) -> None:
    subprocess.run([sys.executable, "-P", "-c", _START + end], check=True)
