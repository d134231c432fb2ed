"""Texts that tokenizers get wrong, and conversations and prompts of many lengths."""

import random
from pydoc_data import topics

# Token counts of the prompts that are cut from one long text.
LENGTHS = (5, 17, 64, 129, 300)
PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village far away,",
    "1, 2, 3, 5, 8,",
)
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello! Who are you?"}],
    [
        {"role": "user", "content": "Name a prime number."},
        {"role": "assistant", "content": "Seven."},
        {"role": "user", "content": "  And a larger one?\n"},
    ],
    [{"role": "user", "content": "Write a haiku about 雨.\n\n```python\nx  =  1\n```"}],
)
# Special tokens of today's families, in the middle of a text as well.
MARKS = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>", "<eos>", "<s>", "</s>", "<pad>",
    "<start_of_turn>", "<end_of_turn>", "<|fim_prefix|>", "<tool_call>", "</tool_call>",
    "<0x0A>", "<unused5>", "[INST]",
)  # fmt: skip
_TEXTS = (
    "", "a", " ", "  ", " a", "a ", "  a   b    c", "\n", "\n\n\n\n", "\r\n\r", "\t x\r\n\ty \n z",
    "don't I'LL you'Ve we'd O'Neil's", "0 1 12 123 1234 12345678 1.5e-3 ½ ² ٣٤٥ 一二三",
    "naïve café Ångström e\u0301 \u00c5 \u212b", "你好,世界!。、「漢字」かな カナ 한국어 조선말",
    "العربية مرحبا بالعالم שָׁלוֹם \u202eabc\u202c", "हिन्दी ภาษาไทย தமிழ்",
    "🚀👩\u200d👩\u200d👧\u200d👦🇩🇪 👍🏽",
    "def f(x):\n    return x**2  # a\n\n\n\nclass A:\n\tpass\n",
    "...!!!??? --- ___ ===>>> (([{}]))",
    "a" * 300, "ab" * 200, "Donaudampfschifffahrtsgesellschaft" * 8,
    "\u200b\ufeff\u00a0x\u3000y\u2028z",
    "\x01\x1b[0m\x7f", "▁x ▁ x▁y ▁▁", "\u0120x \u010a", "https://example.org/a?b=c&d=%20#é",
    '{"a": [1, 2.50, null], "b\\n": "\\u00e9"}', "\U0001d518\U000e0041\uffff", " \n  \n \t\n x",
)  # fmt: skip
_ALPHABET = " \n\tabcXYZ019.,;'\"éß漢字かな한🙂\u0301-_/\\<>|ا"


def nasty_texts(random_texts: int = 300) -> list[str]:
    """Return texts of spaces, digits, scripts, special tokens and long words; some are random."""
    drawn = random.Random(0)
    texts = [*_TEXTS, *MARKS]
    texts += [f"a {mark} b{mark}\n{mark}{mark}  c" for mark in MARKS]
    for _ in range(random_texts):
        texts.append("".join(drawn.choice(_ALPHABET) for _ in range(drawn.randint(1, 40))))
    return texts


def long_text() -> str:
    """Return a text of more tokens than the longest prompt has."""
    return topics.topics["assignment"]
