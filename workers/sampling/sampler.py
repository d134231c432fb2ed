"""Sample the next tokens of a batch from its logits.

The order is: the masks of grammars, biases, penalties, forbidden tokens, temperature, min_p, top_k,
top_p, then one number per row looked up in the cumulative distribution, in the order of the
vocabulary. Where a thinking budget is spent, the forced token overrides all of them. Each step is
skipped for the rows that do not request it, and whole greedy batches take only an argmax. Nothing
depends on which other rows are in the batch, and nothing waits for the device before the results
are read.
"""

from collections.abc import Sequence as Rows

import torch

from headrace.protocol.sampling import SamplingParams
from headrace.workers.grammars.apply import apply_masks
from headrace.workers.native.draw import can_draw, draw
from headrace.workers.sampling.fixed_bias import add_fixed_bias, has_fixed_bias
from headrace.workers.sampling.logprobs import PositionLogprobs
from headrace.workers.sampling.noise import uniform
from headrace.workers.sampling.nucleus import nucleus_floors
from headrace.workers.sampling.penalties import (
    apply_penalties,
    end_token_ids,
    forbid_tokens,
    force_tokens,
)
from headrace.workers.sequence.sequence import ChunkResult, Failure, SequenceView
from headrace.workers.transfers import Download, upload

_COLDEST = 1e-5  # temperatures below are greedy: divided by them, near ties overflow
# Logits that a CPU processes at a time: in cache, too few for torch to split a sum over threads.
_BLOCK_ELEMENTS = 1 << 15
_RUN = 256  # tokens whose weights are summed first
# Stand for rows in which no token can be sampled.
_NOT_FINITE, _IMPOSSIBLE = -1, -2
_ERRORS = {
    _NOT_FINITE: Failure("error", "the model gave numbers that are not finite"),
    _IMPOSSIBLE: Failure(
        "rejected", "no token can follow: what the request allows excludes each other"
    ),
}


def sample(logits: torch.Tensor, sequences: Rows[SequenceView]) -> list[ChunkResult]:
    """Return one result for each row of logits [rows, vocabulary], its sequence's next token.

    A row whose logits hold a NaN or positive infinity gets an error instead, and so does one where
    grammar, allowed tokens and biases together leave no token.
    """
    sampling = SamplerOutput(logits, sequences)
    return sampling.read(Download(sampling.columns).wait())


class SamplerOutput:
    """The sampled tokens of a batch, on the device.

    token_ids: [rows]; any number where no token can be sampled.
    columns: what `read` needs on the host.
    """

    def __init__(self, logits: torch.Tensor, sequences: Rows[SequenceView]) -> None:
        samplings = [sequence.request.sampling for sequence in sequences]
        self._with_logprobs = [row for row, s in enumerate(samplings) if s.logprobs is not None]
        unmasked = logits
        if self._with_logprobs:  # copied: masks change the logits
            unmasked = logits[upload(self._with_logprobs, torch.long, logits.device)]
        apply_masks(logits, sequences)
        if all(_is_plain(sampling) for sampling in samplings):
            tops, choices = _top_tokens(logits)
            finite, possible = tops < torch.inf, torch.isfinite(tops)
        else:
            choices, possible = _choose_in_blocks(logits, sequences)
            finite = logits.amax(dim=-1) < torch.inf  # false for a NaN
        choices = force_tokens(choices, samplings, sequences)
        self.token_ids = choices
        shown = torch.where(possible, choices, _IMPOSSIBLE)
        self.columns = [torch.where(finite, shown, _NOT_FINITE)]
        self._logprobs: PositionLogprobs | None = None
        if self._with_logprobs:
            wanted = [
                samplings[row].logprob_token_ids or samplings[row].logprobs or 0
                for row in self._with_logprobs
            ]
            rows = upload(self._with_logprobs, torch.long, logits.device)
            self._logprobs = PositionLogprobs(unmasked, choices[rows], wanted)
            self.columns += self._logprobs.columns

    def read(self, columns: Rows[torch.Tensor]) -> list[ChunkResult]:
        """Return the results, from the columns on the host."""
        logprobs = {}
        if self._logprobs is not None:
            logprobs = dict(zip(self._with_logprobs, self._logprobs.read(columns[1:]), strict=True))
        token_ids: list[int] = columns[0].tolist()
        return [
            ChunkResult(error=_ERRORS[token_id])
            if token_id < 0
            else ChunkResult(token_id, logprobs.get(row))
            for row, token_id in enumerate(token_ids)
        ]


def _top_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's greatest logit and its first index [rows].

    A maximum is many times faster than an argmax (on a CPU 0.1 and 2.4 ms for 64 rows of 49,152),
    so the index is searched for among the maxima of runs, and then in one run.
    """
    size = logits.shape[1]
    whole = size // _RUN * _RUN
    if logits.device.type != "cpu" or not whole:
        values, indices = logits.max(dim=-1)
        return values, indices
    runs = logits[:, :whole].unfold(1, _RUN, _RUN).amax(dim=-1)
    if whole < size:
        runs = torch.cat((runs, logits[:, whole:].amax(dim=-1, keepdim=True)), dim=1)
    tops, run = runs.max(dim=-1, keepdim=True)
    columns = (run * _RUN + torch.arange(_RUN, device=logits.device)).clamp_(max=size - 1)
    inside = logits.gather(1, columns).argmax(dim=-1, keepdim=True)
    return tops.squeeze(1), columns.gather(1, inside).squeeze(1)


def _is_plain(sampling: SamplingParams) -> bool:
    """Return whether the next token is the most likely one, whatever came before."""
    return sampling.temperature < _COLDEST and not (
        _has_penalties(sampling)
        or sampling.min_tokens > 0
        or sampling.bad_words
        or has_fixed_bias(sampling)
    )


def _has_penalties(sampling: SamplingParams) -> bool:
    return (
        sampling.repetition_penalty != 1
        or sampling.presence_penalty != 0
        or sampling.frequency_penalty != 0
    )


def _choose_in_blocks(
    logits: torch.Tensor, sequences: Rows[SequenceView]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Call `_choose`, with torch's operations on a CPU for few rows at a time.

    What is computed of them then stays in cache.
    """
    if logits.device.type != "cpu" or can_draw(logits.device):
        return _choose(logits.float(), sequences)
    size = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    blocks = [
        _choose(logits[start : start + size].float(), sequences[start : start + size])
        for start in range(0, len(sequences), size)
    ]
    choices, finite = zip(*blocks, strict=True)
    return torch.cat(choices), torch.cat(finite)


def _choose(
    logits: torch.Tensor, sequences: Rows[SequenceView]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids [rows], and which rows are still finite after their penalties [rows]."""
    samplings = [sequence.request.sampling for sequence in sequences]
    logits = _adjusted(logits, samplings, sequences)
    warm = [row for row, sampling in enumerate(samplings) if sampling.temperature >= _COLDEST]
    if len(warm) == len(samplings):
        return _draw_rows(logits, warm, sequences)
    tops, choices = _top_tokens(logits)
    finite = torch.isfinite(tops)
    if warm:
        rows = upload(warm, torch.long, logits.device)
        drawn, possible = _draw_rows(logits, warm, sequences)
        choices = choices.index_copy(0, rows, drawn)
        finite[rows] &= possible
    return choices, finite


def _adjusted(
    logits: torch.Tensor, samplings: Rows[SamplingParams], sequences: Rows[SequenceView]
) -> torch.Tensor:
    """Return the logits with biases, penalties and forbidden tokens; a copy if there are any."""
    biased = [row for row, sampling in enumerate(samplings) if has_fixed_bias(sampling)]
    penalised = [row for row, sampling in enumerate(samplings) if _has_penalties(sampling)]
    banned = [row for row, sampling in enumerate(samplings) if sampling.bad_words]
    too_short = [
        row
        for row, sequence in enumerate(sequences)
        if sequence.num_outputs < samplings[row].min_tokens
    ]
    if not (biased or penalised or banned or too_short):
        return logits
    logits = logits.clone(memory_format=torch.contiguous_format)
    add_fixed_bias(logits, biased, sequences)
    apply_penalties(logits, penalised, sequences)
    forbid_tokens(logits, banned, [sequences[row].banned_token_ids() for row in banned])
    forbid_tokens(logits, too_short, [end_token_ids(sequences[row]) for row in too_short])
    return logits


def _draw_rows(
    logits: torch.Tensor, rows: Rows[int], sequences: Rows[SequenceView]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample a token for each of these rows of logits [batch, vocabulary] and of `sequences`.

    Returns the tokens, and which rows have a distribution at all [rows]: in one with a NaN the
    token means nothing.
    """
    samplings = [sequences[row].request.sampling for row in rows]
    noise = [
        uniform(sampling.seed, sequences[row].num_outputs)
        for row, sampling in zip(rows, samplings, strict=True)
    ]
    if can_draw(logits.device):
        return draw(logits, rows, samplings, noise)
    some = logits
    if len(rows) < len(logits):
        some = logits[upload(rows, torch.long, logits.device)]
    tops = some.amax(dim=-1)  # many times faster than max, which finds the index, too
    choices, possible = _draw(some - tops[:, None], samplings, noise)
    return choices, torch.isfinite(tops) & possible


def _draw(
    logits: torch.Tensor, samplings: Rows[SamplingParams], noise: Rows[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do what `_draw_rows` does, for all rows of logits whose greatest is 0."""
    logits /= _column([sampling.temperature for sampling in samplings], logits)
    _cut_min_p(logits, samplings)
    _cut_top_k(logits, samplings)
    _cut_top_p(logits, samplings)
    uniforms = upload(noise, torch.float64, logits.device).unsqueeze(1)
    return _look_up(logits.exp_(), uniforms)


def _look_up(weights: torch.Tensor, uniforms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where in the cumulative sum of weights [rows, vocabulary] the uniforms [rows, 1] fall.

    Returns token ids [rows], and which rows have a finite sum [rows]. Runs of the vocabulary are
    summed first, in float64; only the run that holds the target is summed token by token.
    """
    size = weights.shape[1]
    whole = size // _RUN * _RUN
    sums = (
        weights[:, :whole].view(len(weights), whole // _RUN, _RUN).sum(dim=-1, dtype=torch.float64)
    )
    rest = weights[:, whole:].sum(dim=-1, keepdim=True, dtype=torch.float64)
    runs = torch.cat((torch.zeros_like(rest), sums, rest), dim=1).cumsum_(dim=1)
    targets = uniforms * runs[:, -1:]
    run = _first_above(runs[:, 1:], targets)
    columns = run * _RUN + torch.arange(_RUN, device=weights.device)
    inside = weights.gather(1, columns.clamp(max=size - 1)).double()
    inside = inside.masked_fill_(columns >= size, 0.0).cumsum_(dim=1)
    offset = _first_above(inside, targets - runs.gather(1, run))
    # A search in a row with a NaN may end anywhere; the index must be a token's.
    chosen = (run * _RUN + offset).clamp_(max=size - 1)
    return chosen.squeeze(1), torch.isfinite(runs[:, -1])


def _first_above(cumulative: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the first index where each row is above its target, or has its total [rows, 1].

    A target can be the total itself by rounding; what follows that index has no weight.
    """
    totals = cumulative[:, -1:].contiguous()
    above = torch.searchsorted(cumulative.contiguous(), targets, right=True)
    full = torch.searchsorted(cumulative.contiguous(), totals)
    return torch.minimum(above, full).clamp_(max=cumulative.shape[1] - 1)


def _cut_min_p(logits: torch.Tensor, samplings: Rows[SamplingParams]) -> None:
    """Drop tokens less likely than min_p times the most likely one, whose logit is 0."""
    if any(sampling.min_p > 0 for sampling in samplings):
        least = _column([sampling.min_p for sampling in samplings], logits).log_()
        logits.masked_fill_(logits < least, float("-inf"))


def _cut_top_k(logits: torch.Tensor, samplings: Rows[SamplingParams]) -> None:
    """Keep the top_k most likely tokens, and those that tie with the last of them."""
    size = logits.shape[1]
    rows = [row for row, sampling in enumerate(samplings) if 0 < sampling.top_k < size]
    if rows:
        wanted = [samplings[row].top_k for row in rows]
        counts = upload(wanted, torch.long, logits.device)
        index = upload(rows, torch.long, logits.device)
        some = logits if len(rows) == len(logits) else logits[index]
        largest = some.topk(max(wanted), dim=-1).values
        _cut_below(logits, index, some, largest.gather(1, counts.unsqueeze(1) - 1))


def _cut_top_p(logits: torch.Tensor, samplings: Rows[SamplingParams]) -> None:
    """Keep the fewest most likely tokens whose probabilities reach top_p, and their ties."""
    rows = [row for row, sampling in enumerate(samplings) if sampling.top_p < 1]
    if rows:
        index = upload(rows, torch.long, logits.device)
        some = logits if len(rows) == len(logits) else logits[index]
        shares = _column([samplings[row].top_p for row in rows], logits)
        _cut_below(logits, index, some, nucleus_floors(some, shares))


def _cut_below(
    logits: torch.Tensor, index: torch.Tensor, some: torch.Tensor, least: torch.Tensor
) -> None:
    """Set values of `some` below `least` [some rows, 1] to -inf.

    some: all of the logits, or a copy of the rows at `index`.
    """
    some.masked_fill_(some < least, float("-inf"))
    if some is not logits:
        logits[index] = some


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return upload(values, torch.float32, like.device).unsqueeze(1)
