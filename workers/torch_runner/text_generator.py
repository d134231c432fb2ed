"""Generators of text made of the text model of a class that reads pictures, too.

transformers has such text models without a head for some classes (Qwen2.5-VL, Qwen3-VL, GLM-4.5V).
"""

import inspect
import re
from typing import Any

from torch import nn
from transformers.modeling_outputs import CausalLMOutputWithPast

_HEAD = "logits = self.lm_head("
# What a head does besides, which a plain one would leave out.
_MORE = re.compile(r"softcap|scal(e|ing)\b|tanh|logits\s+[-+*/]|\blogits = logits", re.IGNORECASE)


def text_generator(text_class: Any, whole_class: Any) -> Any | None:
    """Return a class: the text model with a linear head, which is that of the whole; None if the
    whole has another head.

    text_class: of transformers, without a head. whole_class: of which it is a part.
    """
    _, head, after = inspect.getsource(whole_class.forward).partition(_HEAD)
    if not head or _MORE.search(after):
        return None

    def __init__(self: Any, config: Any) -> None:
        text_class.__bases__[0].__init__(self, config)
        self.model = text_class(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self: Any,
        input_ids: Any = None,
        position_ids: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: Any = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        output = self.model(
            input_ids=input_ids, position_ids=position_ids, use_cache=use_cache, **options
        )
        states = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(logits=self.lm_head(states[:, kept]))

    members = {
        "__init__": __init__,
        "forward": forward,
        "__module__": __name__,
        "__doc__": f"{text_class.__name__} with a linear head.",
        "config_class": text_class.config_class,
        "base_model_prefix": "model",
        "_tied_weights_keys": {"lm_head.weight": "model.embed_tokens.weight"},
    }
    name = f"{text_class.__name__.removesuffix('Model')}ForCausalLM"
    return type(name, (text_class.__bases__[0],), members)
