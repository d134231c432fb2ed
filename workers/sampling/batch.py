"""Flatten a step's chunks to one row of tokens, and turn its logits back into results."""

import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from itertools import chain, islice

import torch

from headrace.protocol.to_frontend import Logprobs
from headrace.workers.attention.backend import AttentionBatch, Span
from headrace.workers.sampling.logprobs import compute_logprobs
from headrace.workers.sampling.sampler import sample
from headrace.workers.sampling.verify import verify_drafts, views_to_sample
from headrace.workers.sequence.sequence import Chunk, ChunkResult


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """The chunks of a step, flattened: a row for each token.

    order: the chunks' numbers, in the order of their rows.
    token_ids, positions: of each row.
    wanted: rows whose logits are needed: for each chunk its prompt positions, then the row of its
        sequence's last token and those of its drafts.
    """

    order: list[int]
    token_ids: list[int]
    positions: list[int]
    wanted: list[int]
    batch: AttentionBatch


def flatten(chunks: Items[Chunk]) -> FlatBatch:
    """Flatten the chunks of a step.

    Those of one token come first, by ascending length, as attention requires; then the others.
    """
    order = sorted(range(len(chunks)), key=lambda number: _rank(chunks[number]))
    token_ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans = []
    for number in order:
        chunk = chunks[number]
        first = len(token_ids)
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        token_ids += chunk.drafts
        positions += range(chunk.start, chunk.start + chunk.count)
        wanted += [first + position - chunk.start for position in chunk.prompt_logprob_positions]
        if chunk.samples:
            wanted += range(first + chunk.end - chunk.start - 1, first + chunk.count)
        known = len(chunk.sequence.token_ids) + len(chunk.drafts)
        blocks = chunk.sequence.blocks
        spans.append(Span(first, chunk.count, chunk.start, blocks, known, chunk.state))
    num_decodes = sum(chunk.count == 1 for chunk in chunks)
    batch = AttentionBatch(spans[:num_decodes], spans[num_decodes:])
    return FlatBatch(order, token_ids, positions, wanted, batch)


def compute_results(
    chunks: Items[Chunk], order: Items[int], logits: torch.Tensor
) -> list[ChunkResult]:
    """Return one result for each chunk, from the logits [wanted rows, vocabulary]."""
    prompts: dict[int, range] = {}  # chunk to its rows of logits
    samples: dict[int, range] = {}
    row = 0
    for number in order:
        chunk = chunks[number]
        for rows, count in (
            (prompts, len(chunk.prompt_logprob_positions)),
            (samples, 1 + len(chunk.drafts) if chunk.samples else 0),
        ):
            if count:
                rows[number] = range(row, row + count)
                row += count
    results = [ChunkResult()] * len(chunks)
    if samples:
        chosen = logits[list(chain(*samples.values()))] if prompts else logits
        for number, result in _sample(chosen, {number: chunks[number] for number in samples}):
            results[number] = result
    for number, of_prompt in prompts.items():
        known = _prompt_logprobs(chunks[number], logits[of_prompt.start : of_prompt.stop])
        results[number] = dataclasses.replace(results[number], prompt_logprobs=known)
    return results


def _sample(logits: torch.Tensor, chunks: dict[int, Chunk]) -> Iterator[tuple[int, ChunkResult]]:
    """Yield the results of chunks by number.

    logits: [rows, vocabulary], for each chunk those after its sequence and each of its drafts.
    """
    sampled = iter(sample(logits, [view for c in chunks.values() for view in views_to_sample(c)]))
    for number, chunk in chunks.items():
        yield number, verify_drafts(chunk, list(islice(sampled, 1 + len(chunk.drafts))))


def _rank(chunk: Chunk) -> tuple[bool, int]:
    return (chunk.count > 1, chunk.end if chunk.count == 1 else 0)


def _prompt_logprobs(chunk: Chunk, logits: torch.Tensor) -> tuple[Logprobs, ...]:
    """Return log probabilities of the tokens that follow the chunk's prompt positions."""
    sequence = chunk.sequence
    top = sequence.request.sampling.prompt_logprobs
    wanted = [
        (row, sequence.token_ids[position + 1], top)
        for row, position in enumerate(chunk.prompt_logprob_positions)
    ]
    return tuple(compute_logprobs(logits, wanted).values())
