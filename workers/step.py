"""From a step's chunks to one flattened row of tokens, and from its logits back to results."""

import dataclasses
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from protocol.to_frontend import Logprobs
from workers.attention.backend import AttentionBatch, Span
from workers.logprobs import describe
from workers.sampler import sample
from workers.sequence import Chunk, ChunkResult


@dataclass(frozen=True, slots=True)
class Rows:
    """A flattened batch.

    order: the chunks' numbers, in the order of their rows.
    token_ids, positions: of each row.
    wanted: rows whose logits are needed: for each chunk its prompt positions, then its last row.
    """

    order: list[int]
    token_ids: list[int]
    positions: list[int]
    wanted: list[int]
    batch: AttentionBatch


def flatten(chunks: Items[Chunk]) -> Rows:
    """Chunks of one token first, by ascending length, as attention wants them; then the others."""
    order = sorted(range(len(chunks)), key=lambda number: _rank(chunks[number]))
    token_ids: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans = []
    for number in order:
        chunk = chunks[number]
        first = len(token_ids)
        token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
        positions += range(chunk.start, chunk.end)
        wanted += [first + place - chunk.start for place in chunk.prompt_logprob_positions]
        if chunk.samples:
            wanted.append(first + chunk.count - 1)
        spans.append(Span(first, chunk.count, chunk.start, chunk.sequence.blocks))
    num_decodes = sum(chunk.count == 1 for chunk in chunks)
    batch = AttentionBatch(spans[:num_decodes], spans[num_decodes:])
    return Rows(order, token_ids, positions, wanted, batch)


def collect(chunks: Items[Chunk], order: Items[int], logits: torch.Tensor) -> list[ChunkResult]:
    """One result for each chunk, from the logits [wanted rows, vocabulary]."""
    samples: dict[int, int] = {}  # chunk to its row of logits
    prompts: dict[int, range] = {}
    row = 0
    for number in order:
        count = len(chunks[number].prompt_logprob_positions)
        if count:
            prompts[number] = range(row, row + count)
        row += count
        if chunks[number].samples:
            samples[number] = row
            row += 1
    results = [ChunkResult()] * len(chunks)
    if samples:
        chosen = logits[list(samples.values())] if prompts else logits
        sampled = sample(chosen, [chunks[number].sequence for number in samples])
        for number, result in zip(samples, sampled, strict=True):
            results[number] = result
    for number, rows in prompts.items():
        known = _describe_prompt(chunks[number], logits[rows.start : rows.stop])
        results[number] = dataclasses.replace(results[number], prompt_logprobs=known)
    return results


def _rank(chunk: Chunk) -> tuple[bool, int]:
    return (chunk.count > 1, chunk.end if chunk.count == 1 else 0)


def _describe_prompt(chunk: Chunk, logits: torch.Tensor) -> tuple[Logprobs, ...]:
    """Log probabilities of the tokens that follow the chunk's prompt positions."""
    sequence = chunk.sequence
    top = sequence.request.sampling.prompt_logprobs
    wanted = [
        (row, sequence.token_ids[position + 1], top)
        for row, position in enumerate(chunk.prompt_logprob_positions)
    ]
    return tuple(describe(logits, wanted).values())
