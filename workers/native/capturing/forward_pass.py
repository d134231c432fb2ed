"""Run a model's forward pass for the capture: as a generator of tokens, or as an encoder."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from headrace.workers.attention.pass_options import PassOptions

if TYPE_CHECKING:  # a program from the cache needs no transformers
    from transformers.modeling_utils import PreTrainedModel


@dataclass(frozen=True, slots=True)
class PassInputs:
    """The inputs of a forward pass on some tokens [1, rows].

    token_types: below the model's number of them.
    logit_rows: the rows whose logits are needed [logit rows].
    features: numbers that come with each row [1, rows, width]; None: none.
    source: stands for an encoder's vectors [1, positions, width]; None: there is no encoder.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    token_types: torch.Tensor
    logit_rows: torch.Tensor
    features: torch.Tensor | None = None
    source: torch.Tensor | None = None


# Runs a model; returns the values of all rows [1, rows, width], or of the logit rows; None: what it
# computes is only stored.
ForwardPass = Callable[[Any, PassInputs], torch.Tensor | None]


def compute_logits(model: "PreTrainedModel", inputs: PassInputs) -> torch.Tensor:
    """Compute the logits of some rows."""
    logits: torch.Tensor = model(
        input_ids=inputs.token_ids,
        position_ids=inputs.positions,
        logits_to_keep=inputs.logit_rows,
        **PassOptions(model).of(inputs.positions),
    ).logits
    return logits


def compute_hidden(model: "PreTrainedModel", inputs: PassInputs) -> torch.Tensor:
    """Compute the hidden states of all rows with a model without a head."""
    taken = inspect.signature(model.forward).parameters
    options = {
        "position_ids": inputs.positions,
        "token_type_ids": inputs.token_types,
        "use_cache": False,
    }
    given = {name: value for name, value in options.items() if name in taken}
    hidden: torch.Tensor = model(input_ids=inputs.token_ids, **given).last_hidden_state
    return hidden
