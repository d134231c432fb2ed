"""The results of a launched step: sampled on the device, copied to the host when requested."""

import dataclasses
from collections.abc import Sequence as Items

import torch

from headrace.workers.sampling.logprobs import PositionLogprobs
from headrace.workers.sampling.sampler import SamplerOutput
from headrace.workers.sequence.sequence import Chunk, ChunkResult, Sequence
from headrace.workers.transfers import Download, upload


class PendingResults:
    """The results of chunks without drafts, sampled from logits [logit rows, vocabulary].

    order: the chunks' indices, in the order of their rows.

    Everything needed of the sequences is read in the constructor: they may change before `results`.
    """

    def __init__(self, chunks: Items[Chunk], order: Items[int], logits: torch.Tensor) -> None:
        self._num_chunks = len(chunks)
        self._sampled = [number for number in order if chunks[number].samples]
        self._sequences = [chunks[number].sequence for number in self._sampled]
        self._described = [n for n in order if chunks[n].prompt_logprob_positions]
        sample_rows, prompt_rows = _wanted_rows(chunks, order)
        self._sampling: SamplerOutput | None = None
        columns: list[torch.Tensor] = []
        if self._sampled:
            chosen = logits
            if prompt_rows:
                chosen = logits[upload(sample_rows, torch.long, logits.device)]
            self._sampling = SamplerOutput(chosen, self._sequences)
            columns += self._sampling.columns
        self._prompts: list[PositionLogprobs] = []
        for number in self._described:
            self._prompts.append(_describe(chunks[number], logits, prompt_rows[number]))
            columns += self._prompts[-1].columns
        self._download = Download(columns)

    @property
    def token_ids(self) -> torch.Tensor | None:
        """The sampled tokens on the device, in the order of `rows_by_sequence`; None if none."""
        return None if self._sampling is None else self._sampling.token_ids

    def rows_by_sequence(self) -> dict[Sequence, int]:
        """Return the row of `token_ids` that holds each sequence's next token."""
        return {sequence: row for row, sequence in enumerate(self._sequences)}

    def results(self) -> list[ChunkResult]:
        """Return one result for each chunk; see headrace.workers.engine.runner.Launched."""
        columns = self._download.wait()
        results = [ChunkResult()] * self._num_chunks
        if self._sampling is not None:
            count = len(self._sampling.columns)
            sampled = self._sampling.read(columns[:count])
            columns = columns[count:]
            for number, result in zip(self._sampled, sampled, strict=True):
                results[number] = result
        for number, described in zip(self._described, self._prompts, strict=True):
            count = len(described.columns)
            logprobs = tuple(described.read(columns[:count]))
            columns = columns[count:]
            results[number] = dataclasses.replace(results[number], prompt_logprobs=logprobs)
        return results


def _wanted_rows(chunks: Items[Chunk], order: Items[int]) -> tuple[list[int], dict[int, range]]:
    """Return the rows of the logits to sample from, and the prompt rows of each chunk."""
    samples: list[int] = []
    prompts: dict[int, range] = {}
    row = 0
    for number in order:
        count = len(chunks[number].prompt_logprob_positions)
        if count:
            prompts[number] = range(row, row + count)
            row += count
        if chunks[number].samples:
            samples.append(row)
            row += 1
    return samples, prompts


def _describe(chunk: Chunk, logits: torch.Tensor, rows: range) -> PositionLogprobs:
    """Describe the log probabilities of the tokens that follow the chunk's prompt positions."""
    sequence = chunk.sequence
    next_tokens = [sequence.token_ids[index + 1] for index in chunk.prompt_logprob_positions]
    token_ids = upload(next_tokens, torch.long, logits.device)
    count = sequence.request.sampling.prompt_logprobs or 0
    return PositionLogprobs(logits[rows.start : rows.stop], token_ids, [count] * len(rows))
