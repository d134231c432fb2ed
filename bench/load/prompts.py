"""Make sessions of one or more requests; a seed always makes the same ones.

Mixes:
fixed     every prompt and every output has the given length.
random    lengths are uniform between a half and one and a half of the given ones.
sharegpt  lengths and turns as in chats of humans. Prompts and outputs are log-normal with the
    means of ShareGPT that Kwon et al. give ("Efficient Memory Management for Large Language Model
    Serving with PagedAttention", 2023, figure 11): 161 and 338 tokens. The number of turns is
    geometric with the mean of LMSYS-Chat-1M (Zheng et al., 2023): 2.0. The width of the log-normal
    (sigma 1.0) and the caps are our own choice. A turn's prompt begins with all turns before it;
    the answers in it are made up, so that the load does not depend on a server's outputs.

Every session begins with words of its own, so that no prefix cache helps between sessions unless
--shared-prefix-tokens asks for it.
"""

import math
import random
from dataclasses import dataclass
from typing import Any

SHAREGPT_PROMPT_TOKENS = 161.31
SHAREGPT_OUTPUT_TOKENS = 337.99
SHAREGPT_SIGMA = 1.0
SHAREGPT_TURNS = 2.0
SHAREGPT_MAX_PROMPT_TOKENS = 1024
SHAREGPT_MAX_OUTPUT_TOKENS = 1024
FIRST_TOKEN_ID = 1000  # below are special tokens and single bytes

Segment = tuple[str, Any]  # a role and its words or token ids

# Each is one token, with a leading space, in the vocabularies of most models.
WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education foot boy age policy "
    "music market sense nation plan college interest death experience effect use class control "
    "field development role effort rate heart drug show leader light voice wife police mind price "
    "report decision son view relationship town road arm difference value building action season "
    "society tax director position player record paper space ground form event official matter "
    "center couple site project activity star table need court oil situation cost industry figure"
).split()


@dataclass(frozen=True, slots=True)
class Mix:
    """The lengths of prompts and outputs.

    prompt_tokens, output_tokens: the length (fixed) or the mean (random).
    shared_prefix_tokens: that every prompt begins with, on top of its own length.
    vocab_size: token ids of prompts are below it.
    context: tokens that a prompt and its output may have at most; longer ones are cut.
    """

    kind: str = "fixed"
    prompt_tokens: int = 128
    output_tokens: int = 64
    shared_prefix_tokens: int = 0
    vocab_size: int = 30_000
    context: int = 8192
    seed: int = 0

    @property
    def mean_turns(self) -> float:
        """The mean number of requests of a session."""
        return SHAREGPT_TURNS if self.kind == "sharegpt" else 1.0


@dataclass(frozen=True, slots=True)
class Turn:
    """The lengths of one prompt, without the turns before it, and of its output."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Planned:
    """One request: the fields of its prompt, and its lengths in tokens.

    Every word of a chat counts as a token; the chat template's tokens come on top.
    """

    prompt: dict[str, Any]
    prompt_tokens: int
    output_tokens: int


def turns(mix: Mix, index: int) -> list[Turn]:
    """Return the lengths of session `index`."""
    rng = _rng(mix, "lengths", index)
    if mix.kind == "fixed":
        return [Turn(mix.prompt_tokens, mix.output_tokens)]
    if mix.kind == "random":
        return [Turn(_around(rng, mix.prompt_tokens), _around(rng, mix.output_tokens))]
    count = 1
    while rng.random() > 1 / SHAREGPT_TURNS:
        count += 1
    return [
        Turn(
            _log_normal(rng, SHAREGPT_PROMPT_TOKENS, SHAREGPT_MAX_PROMPT_TOKENS),
            _log_normal(rng, SHAREGPT_OUTPUT_TOKENS, SHAREGPT_MAX_OUTPUT_TOKENS),
        )
        for _ in range(count)
    ]


def session(mix: Mix, endpoint: str, index: int) -> list[Planned]:
    """Return the requests of session `index`, which must be sent one after the other.

    A turn that would exceed the context ends the session; a first turn is truncated.
    """
    rng = _rng(mix, "text", index)
    text = _words if endpoint == "chat" else _token_ids
    history: list[Segment] = []
    if mix.shared_prefix_tokens:
        history.append(("system", text(mix, _rng(mix, "shared", 0), mix.shared_prefix_tokens)))
    planned: list[Planned] = []
    used = mix.shared_prefix_tokens
    for turn in turns(mix, index):
        if used + turn.prompt_tokens + turn.output_tokens > mix.context:
            if planned:
                break
            turn = _cut(turn, mix.context - used)
        history.append(("user", text(mix, rng, turn.prompt_tokens)))
        used += turn.prompt_tokens
        planned.append(Planned(_prompt(endpoint, history), used, turn.output_tokens))
        history.append(("assistant", text(mix, rng, turn.output_tokens)))
        used += turn.output_tokens
    return planned


def _prompt(endpoint: str, history: list[Segment]) -> dict[str, Any]:
    """Return the fields of a request's prompt."""
    if endpoint == "chat":
        return {"messages": [{"role": role, "content": content} for role, content in history]}
    return {"prompt": [token_id for _, token_ids in history for token_id in token_ids]}


def _words(mix: Mix, rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def _token_ids(mix: Mix, rng: random.Random, count: int) -> list[int]:
    first = min(FIRST_TOKEN_ID, mix.vocab_size // 2)
    return rng.choices(range(first, mix.vocab_size), k=count)


def _cut(turn: Turn, room: int) -> Turn:
    output_tokens = max(1, min(turn.output_tokens, room // 2))
    return Turn(max(1, min(turn.prompt_tokens, room - output_tokens)), output_tokens)


def _around(rng: random.Random, middle: int) -> int:
    return rng.randint(max(1, middle // 2), middle + middle // 2)


def _log_normal(rng: random.Random, mean: float, most: int) -> int:
    """Draw a length of a distribution that has this mean before it is capped."""
    value = rng.lognormvariate(math.log(mean) - SHAREGPT_SIGMA**2 / 2, SHAREGPT_SIGMA)
    return max(1, min(most, round(value)))


def _rng(mix: Mix, purpose: str, index: int) -> random.Random:
    """Return a generator for one session, so that sessions do not depend on each other."""
    return random.Random(f"{mix.seed}/{purpose}/{index}")
