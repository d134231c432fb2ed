"""Plan the program of a model that transcribes: its convolutions, its encoder and its decoder."""

import torch

from headrace.protocol.config import Quantization
from headrace.workers.attention.backend import KVLayerShape
from headrace.workers.attention.hook import AttentionHook
from headrace.workers.native.capturing.capture import Surroundings, capture
from headrace.workers.native.instructions import CacheKind
from headrace.workers.native.plan import ProgramPlan
from headrace.workers.native.rewrite import rewrite
from headrace.workers.native.sections import lower_sections
from headrace.workers.speech.passes import WhisperPasses


def plan_speech(
    passes: WhisperPasses,
    hook: AttentionHook,
    heads: list[tuple[int, int]],
    quantization: Quantization | None,
    dtype: torch.dtype,
) -> ProgramPlan:
    """Capture both halves of a model that the hook has probed, and lower them to instructions.

    heads: the decoder's layers and heads whose scores steps may ask for.

    Raises NotStatic if a pass is not one fixed program.
    """
    size = passes.config.d_model
    stem = Surroundings(features=passes.width)
    encoder = Surroundings(features=passes.second.in_features, cache=CacheKind.PASSING)
    decoder = Surroundings(source=size, scored=passes.scored_heads(heads))
    graphs = [
        rewrite(capture(passes, hook, forward, around))  # type: ignore[arg-type]
        for forward, around in (
            (WhisperPasses.stem, stem),
            (WhisperPasses.encode, encoder),
            (WhisperPasses.decode, decoder),
        )
    ]
    lowered = lower_sections(graphs, 2 if dtype == torch.bfloat16 else 1, quantization)
    output = graphs[-1].output
    assert output is not None
    return ProgramPlan(
        dtype=dtype,
        layers=causal_layers(hook),
        lowered=lowered,
        tables=(),
        vocab_size=output.width,
        adaptable={},
        shapes={},
        source_layers=source_layers(hook),
    )


def causal_layers(hook: AttentionHook) -> tuple[KVLayerShape, ...]:
    """Return the decoder's layers that attend to its own tokens."""
    layers = zip(hook.layers, hook.options, strict=True)
    return tuple(shape for shape, options in layers if options.is_causal)


def source_layers(hook: AttentionHook) -> tuple[KVLayerShape, ...]:
    """Return the decoder's layers that attend to the encoder's vectors."""
    layers = zip(hook.layers, hook.options, strict=True)
    return tuple(shape for shape, options in layers if options.reads_source)
