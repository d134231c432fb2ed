"""How byte-level tokenizers split texts before merging, by llama.cpp's names (tokenizer.ggml.pre).

The expressions are those of the models' own tokenizers. They are applied one after the other: what
matches and what lies between is apart.
"""

from dataclasses import dataclass

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}"
_QWEN2 = rf"{_ENDINGS}|{_WORD}|\p{{N}}|{_SIGNS}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4O = rf"{_CASES % ((_ENDINGS + '?',) * 2)}|\p{{N}}{{1,3}}|{_SLASHED}"
_TEKKEN = rf"{_CASES % ('', '')}|\p{{N}}|{_SLASHED}"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DIGITS = (r"\p{N}", _GPT2)
_SEED = rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+"
)
_QWEN35 = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_EXAONE_MOE = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_AYA = (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)


@dataclass(frozen=True, slots=True)
class Splitting:
    """How texts are split.

    expressions: in the syntax of Oniguruma.
    whole_words: whether a word that is a token is not put together by merges.
    adds_bos: whether texts begin with a special token unless the file says otherwise.
    composes: whether accents are first put together with their letters (NFC), as the models' own
        tokenizers do, and llama.cpp does not.
    """

    expressions: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False
    composes: bool = False


def _of(names: str, *expressions: str, **options: bool) -> dict[str, Splitting]:
    return {name: Splitting(expressions, **options) for name in names.split()}


SPLITTINGS = {
    **_of(
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        _LLAMA3,
        whole_words=True,
        adds_bos=True,
    ),
    **_of("dbrx smaug-bpe chatglm-bpe", _LLAMA3),
    **_of("glm4 glm5", _LLAMA3, whole_words=True),
    **_of("qwen2 deepseek-r1-qwen", _QWEN2, composes=True),
    **_of("kormo stablelm2 megrez hunyuan solar-open grok-2", _QWEN2),
    **_of("qwen35", _QWEN35, composes=True),
    **_of("deepseek-v3 hunyuan-dense joyai-llm hy_v4", *_DEEPSEEK3),
    **_of("deepseek-coder", *_CODER),
    **_of("gpt-2 phi-2 gigachat a.x-4.0 mellum mpt olmo jais trillion granite-docling", _GPT2),
    **_of("exaone4 jina-es jina-de jina-v2-es jina-v2-de modern-bert", _GPT2),
    **_of("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", *_DIGITS),
    **_of("falcon", *_FALCON),
    **_of("bloom gpt3-finnish poro-chat", _BLOOM),
    **_of("viking", _BLOOM, r"\p{N}"),
    **_of("tekken", _TEKKEN, whole_words=True),
    **_of("gpt-4o llama4 kanana2 minimax-m2", _GPT4O),
    **_of("tiny_aya cohere2moe", *_AYA),
    **_of("seed-coder", _SEED),
    **_of("bailingmoe bailingmoe2 llada-moe", _BAILING),
    **_of("exaone-moe", _EXAONE_MOE),
    **_of("minicpm5", r"\p{N}{1,3}", rf"{_ENDINGS}|{_WORD}|\p{{N}}+|{_SIGNS}", whole_words=True),
    **_of("default", *_DEFAULT),
}
