"""Represent a request inside the engine, and its part in a step."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from headrace.protocol.common.thinking import ThinkingTracker
from headrace.protocol.to_frontend import Logprobs
from headrace.protocol.to_worker import Generate
from headrace.workers.sequence.bad_words import BadWords
from headrace.workers.sequence.block_hashes import block_hash, root_hash
from headrace.workers.sequence.grammar_state import GrammarState
from headrace.workers.sequence.held_state import HeldState
from headrace.workers.sequence.mask import Mask
from headrace.workers.sequence.prompt_lookup import PromptLookup
from headrace.workers.sequence.queued_request import Owner as Owner
from headrace.workers.sequence.queued_request import QueuedRequest
from headrace.workers.sequence.repetition import RepetitionDetector
from headrace.workers.sequence.state_use import StateUse
from headrace.workers.sequence.token_counts import TokenCounts
from headrace.workers.sequence.token_texts import TokenTexts

if TYPE_CHECKING:  # the engine runs without torch, too
    import torch

FailureReason = Literal["rejected", "error"]


@dataclass(slots=True, eq=False)
class Sequence(QueuedRequest):
    """A request's tokens and how far they have been run.

    token_ids: prompt and output together.
    num_prompt: how many of them are the prompt.
    num_computed: tokens whose keys and values are in the cache, all from the first on.
    deferred_owners: owners that are deferred in the steps of its prompt.
    blocks: the cache's blocks that hold them, in order; the last ones may still be empty.
    num_cached_tokens: prompt tokens found in the cache at first admission; None before.
    preemptions: how often it was preempted.
    has_output: whether an output of it has been made.
    hashes: of its first full blocks, as far as computed.
    num_registered: how many of its blocks other sequences can find.
    counts: of its tokens, up to some position; None until first used.
    prompt_lookup: its drafts; None until first used.
    thinking: where its thinking is; None until its budget may be spent.
    bad_words, repetition: the checks that its request asks for; None until first used.
    fixed_bias: what the sampler adds to its logits at each step [vocabulary], on the device; None
        until first used.
    grammar: where its output stands in the request's grammar; None if there is no grammar.
    texts: of the model's tokens; None if the request does not need them.
    scores: of attention to the request's window, of the chunks so far; only while its tokens' times
        are wanted.
    no_speech_prob, token_starts: as in to_frontend.Admission, once known.
    has_slot: whether the runner has a slot for its window.
    state: where its recurrent layers' state is; None: it does not run, or the model has none.
    is_long: whether it has the rotary frequencies of long sequences (see Runner.switch_length).
    """

    request: Generate
    token_ids: list[int]
    num_prompt: int
    num_computed: int = 0
    deferred_owners: frozenset[Owner] = frozenset()
    blocks: list[int] = field(default_factory=list)
    num_cached_tokens: int | None = None
    preemptions: int = 0
    has_output: bool = False
    prompt_logprobs: list[Logprobs] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    num_registered: int = 0
    counts: TokenCounts | None = None
    prompt_lookup: PromptLookup | None = None
    thinking: ThinkingTracker | None = None
    bad_words: BadWords | None = None
    repetition: RepetitionDetector | None = None
    fixed_bias: "torch.Tensor | None" = None
    grammar: GrammarState | None = None
    texts: TokenTexts | None = None
    scores: "list[torch.Tensor]" = field(default_factory=list)
    no_speech_prob: float | None = None
    token_starts: tuple[float, ...] = ()
    has_slot: bool = False
    state: HeldState | None = None
    is_long: bool = False

    @classmethod
    def of(cls, request: Generate, arrival: int, arrived_s: float) -> "Sequence":
        """Make a sequence of a request's prompt and of the output that it has already."""
        token_ids = [*request.prompt_token_ids, *request.output_token_ids]
        return cls(request, arrival, arrived_s, token_ids, len(request.prompt_token_ids))

    @property
    def num_outputs(self) -> int:
        """Number of output tokens."""
        return len(self.token_ids) - self.num_prompt

    @property
    def window(self) -> bytes:
        """The digest of the window that it listens to; empty if it only reads."""
        return b"" if self.request.audio is None else self.request.audio.digest

    def repeats(self) -> bool:
        """Return whether the output ends with more repetitions than its request allows."""
        params = self.request.sampling.repetition_detection
        if params is None:
            return False
        if self.repetition is None:
            self.repetition = RepetitionDetector(params, self.request.sampling.max_tokens)
        return self.repetition.follow(self.token_ids, self.num_prompt)

    @property
    def num_pending(self) -> int:
        """Number of tokens that must be run before the next one can be sampled."""
        return len(self.token_ids) - self.num_computed

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether it must still compute log probabilities of its prompt."""
        wanted = self.request.sampling.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < self.num_prompt - 1

    @property
    def mask(self) -> Mask | None:
        """The tokens that may come next in the step that is being run; None: any."""
        return None if self.grammar is None else self.grammar.mask_after(0)

    def append(self, token_id: int) -> None:
        """Append a sampled token."""
        self.token_ids.append(token_id)
        if self.grammar is not None:
            self.grammar.append(token_id)

    def token_counts(self) -> TokenCounts:
        """Return the counts of all its tokens by now."""
        if self.counts is None:
            self.counts = TokenCounts()
        self.counts.update(self.token_ids, self.num_prompt)
        return self.counts

    def banned_token_ids(self, drafts: tuple[int, ...] = ()) -> Collection[int]:
        """Return the tokens that would complete a bad word after the output and these drafts."""
        words = self.request.sampling.bad_words
        if not words:
            return ()
        if self.bad_words is None:
            self.bad_words = BadWords(words)
        start = max(self.num_prompt, len(self.token_ids) - self.bad_words.reach)
        return self.bad_words.banned([*self.token_ids[start:], *drafts])

    def become_long(self) -> None:
        """Have the rotary frequencies of long sequences from now on. It must hold no blocks."""
        self.is_long = True
        self.hashes = []

    def block_hashes(self, count: int, block_size: int) -> list[bytes]:
        """Return the hashes of the first `count` blocks, which must be full."""
        while len(self.hashes) < count:
            parent = self.hashes[-1] if self.hashes else self._root()
            start = len(self.hashes) * block_size
            self.hashes.append(block_hash(parent, self.token_ids[start : start + block_size]))
        return self.hashes[:count]

    def _root(self) -> bytes:
        return root_hash(self.request.adapter, self.request.cache_salt, self.is_long)


@dataclass(frozen=True, slots=True)
class DraftedSequence:
    """A sequence as if it ended with some drafts, for sampling the token after them."""

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


# A sequence as sampling sees it.
SequenceView = Sequence | DraftedSequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence in one step: `count` tokens from position `start` on.

    samples: whether the next token is sampled after the last of them.
    drafts: guesses at the sequence's next tokens, which are the last of `count`; tokens are then
        sampled after the sequence's last token and after each draft.
    prompt_logprob_positions: positions within the chunk whose next prompt token's log probability
        is requested.
    state: where its recurrent layers' state is; None: the model has none.
    """

    sequence: Sequence
    start: int
    count: int
    samples: bool
    prompt_logprob_positions: range = range(0)
    drafts: tuple[int, ...] = ()
    state: StateUse | None = None

    @property
    def end(self) -> int:
        """The position after the sequence's own tokens in the chunk."""
        return self.start + self.count - len(self.drafts)

    @property
    def is_decode(self) -> bool:
        """Whether it runs only one token of the sequence, and its drafts."""
        return self.samples and self.end - self.start == 1


class Failure(NamedTuple):
    """The reason why a request cannot continue.

    reason: the finish_reason of its last output: "rejected" if the request is at fault, else
        "error".
    text: fit to be shown to a client.
    """

    reason: FailureReason
    text: str


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """The result of running a chunk.

    token_id: the sampled token; None if the chunk does not sample or `error` is set.
    logprobs: of the sampled token, if requested.
    prompt_logprobs: of the tokens that follow the chunk's `prompt_logprob_positions`.
    error: why no token could be sampled; ends the request.
    accepted_drafts: the results after each of the chunk's accepted drafts.
    no_speech_prob, token_starts: what the request asks about its window, if the chunk tells.
    """

    token_id: int | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: tuple[Logprobs, ...] = ()
    error: Failure | None = None
    accepted_drafts: tuple["ChunkResult", ...] = ()
    no_speech_prob: float | None = None
    token_starts: tuple[float, ...] = ()
