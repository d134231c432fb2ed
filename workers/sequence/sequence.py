"""One request inside the engine, and what a step does with it."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from headrace.protocol.common.thinking import ThinkingBlock
from headrace.protocol.to_frontend import Logprobs
from headrace.protocol.to_worker import Generate
from headrace.workers.sequence.bad_words import BadWords
from headrace.workers.sequence.block_hashes import block_hash, root_hash
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.mask import Mask
from headrace.workers.sequence.prompt_lookup import PromptLookup
from headrace.workers.sequence.repetition import RepetitionDetector
from headrace.workers.sequence.token_counts import TokenCounts


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's tokens and how far they have been run.

    token_ids: prompt and output together.
    num_prompt: how many of them are the prompt.
    arrival: counts requests; orders those of equal priority.
    num_computed: tokens whose keys and values are in the cache, all from the first on.
    deferred_tenants: tenants that leave the steps of its prompt to it.
    blocks: the cache's blocks that hold them, in order; the last ones may be empty yet.
    num_cached_tokens: prompt tokens found in the cache at first admission; None before.
    counts: of its tokens, up to some position; None until they are first asked for.
    drafting: guesses at its next tokens; None until one is made.
    thinking: where its thinking is; None until its budget may be spent.
    bad_words, repetition: what its request asks to look out for; None until it is first done.
    fixed_bias: what is added to its logits at each step, as the sampler keeps it on the device;
        None until it is first asked for.
    grammar: where its output stands in the request's grammar; None if that has none.
    """

    request: Generate
    arrival: int
    arrived_s: float
    token_ids: list[int]
    num_prompt: int
    num_computed: int = 0
    deferred_tenants: frozenset[str] = frozenset()
    blocks: list[int] = field(default_factory=list)
    num_cached_tokens: int | None = None
    scheduled_s: float | None = None
    has_output: bool = False
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    num_registered: int = 0
    counts: TokenCounts | None = None
    prompt_lookup: PromptLookup | None = None
    thinking: ThinkingBlock | None = None
    bad_words: BadWords | None = None
    repetition: RepetitionDetector | None = None
    fixed_bias: Any = None
    grammar: GrammarState | None = None

    @classmethod
    def of(cls, request: Generate, arrival: int, arrived_s: float) -> "Sequence":
        token_ids = [*request.prompt_token_ids, *request.output_token_ids]
        return cls(request, arrival, arrived_s, token_ids, len(request.prompt_token_ids))

    @property
    def order(self) -> tuple[int, int]:
        """Those that compare lower run earlier and are preempted later."""
        return (self.request.priority, self.arrival)

    @property
    def has_begun(self) -> bool:
        """Whether it has been run before, here or by a worker that is lost."""
        return self.scheduled_s is not None or self.request.is_replay

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.num_prompt

    def repeats(self) -> bool:
        """Whether the output ends with more repetitions than its request takes."""
        params = self.request.sampling.repetition_detection
        if params is None:
            return False
        if self.repetition is None:
            self.repetition = RepetitionDetector(params, self.request.sampling.max_tokens)
        return self.repetition.follow(self.token_ids, self.num_prompt)

    @property
    def num_pending(self) -> int:
        """Tokens that are still to be run before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    @property
    def lacks_prompt_logprobs(self) -> bool:
        wanted = self.request.sampling.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < self.num_prompt - 1

    @property
    def mask(self) -> Mask | None:
        """Which tokens may come next, in the step that is being run; None: any."""
        return None if self.grammar is None else self.grammar.mask_after(0)

    def append(self, token_id: int) -> None:
        """Add a token that was chosen."""
        self.token_ids.append(token_id)
        if self.grammar is not None:
            self.grammar.append(token_id)

    def token_counts(self) -> TokenCounts:
        """The counts of all its tokens by now."""
        if self.counts is None:
            self.counts = TokenCounts()
        self.counts.update(self.token_ids, self.num_prompt)
        return self.counts

    def banned_token_ids(self, drafts: tuple[int, ...] = ()) -> Collection[int]:
        """The tokens that would end a bad word after the output, and these drafts."""
        words = self.request.sampling.bad_words
        if not words:
            return ()
        if self.bad_words is None:
            self.bad_words = BadWords(words)
        start = max(self.num_prompt, len(self.token_ids) - self.bad_words.reach)
        return self.bad_words.banned([*self.token_ids[start:], *drafts])

    def block_hashes(self, count: int, block_size: int) -> list[bytes]:
        """The hashes of the first `count` blocks, all of them full."""
        while len(self.hashes) < count:
            parent = self.hashes[-1] if self.hashes else self._root()
            start = len(self.hashes) * block_size
            self.hashes.append(block_hash(parent, self.token_ids[start : start + block_size]))
        return self.hashes[:count]

    def _root(self) -> bytes:
        return root_hash(self.request.adapter, self.request.cache_salt)


@dataclass(frozen=True, slots=True)
class DraftedSequence:
    """A sequence as if some drafted tokens stood at its end: what choosing the token after them
    depends on."""

    sequence: Sequence
    drafts: tuple[int, ...]

    @property
    def request(self) -> Generate:
        return self.sequence.request

    @property
    def num_outputs(self) -> int:
        return self.sequence.num_outputs + len(self.drafts)

    @property
    def mask(self) -> Mask | None:
        grammar = self.sequence.grammar
        return None if grammar is None else grammar.mask_after(len(self.drafts))

    def token_counts(self) -> TokenCounts:
        return self.sequence.token_counts().extended(self.drafts)

    def banned_token_ids(self) -> Collection[int]:
        return self.sequence.banned_token_ids(self.drafts)


SequenceView = Sequence | DraftedSequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step runs of one sequence: `count` tokens from the `start`-th on.

    samples: whether the next token is chosen after the last of them.
    drafts: guesses at the sequence's next tokens, which are the last of `count`; tokens are then
        chosen after the sequence's last token and after each draft.
    prompt_logprob_positions: positions within the chunk after which a prompt token follows whose
        log probability is wanted.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    prompt_logprob_positions: range = range(0)
    drafts: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Where the sequence's own tokens in the chunk end."""
        return self.start + self.count - len(self.drafts)

    @property
    def is_decode(self) -> bool:
        """Whether it runs but one token of the sequence, and drafts."""
        return self.samples and self.end - self.start == 1


class Failure(NamedTuple):
    """Why a request cannot go on.

    reason: the finish_reason of its last output: "rejected" if what it asks for is at fault, else
        "error". text: fit to be shown to a client.
    """

    reason: Literal["rejected", "error"]
    text: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What running a chunk gave.

    token_id: the sampled token; None if none was to be sampled or `error` is set.
    logprobs: of the sampled token, if the request asked for them.
    prompt_logprobs: of the tokens that follow the chunk's `prompt_logprob_positions`.
    error: why no token could be chosen; ends the request.
    further: the tokens chosen after each of the chunk's drafts that proved right.
    """

    token_id: int | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: tuple[Logprobs, ...] = ()
    error: Failure | None = None
    accepted_drafts: tuple["ChunkResult", ...] = ()
