"""Sentences to be spoken: of everyday words, in any number, the same ones for the same seed."""

import random
from collections.abc import Iterator

_WHO = (
    "The old teacher", "My younger sister", "A tall woman in a green coat",
    "The captain of the ship", "Our neighbor", "The doctor", "A group of students",
    "The man at the door", "Her grandfather",
    "The driver of the bus", "An engineer from the city", "The children", "His best friend",
    "The owner of the bakery", "A famous writer", "The farmer", "The young musician", "The judge",
)  # fmt: skip
_DID = (
    "carried a heavy box of books", "found a small silver key", "wrote a long letter",
    "bought fresh bread and cheese", "painted the wooden fence", "repaired the broken clock",
    "told a story about the war", "planted a row of apple trees", "lost a pair of leather gloves",
    "read the morning newspaper", "opened every window", "asked for a cup of coffee",
    "counted the money twice", "waited for the last train", "sang an old song",
    "looked at the map again", "washed the dirty dishes", "drew a picture of a horse",
)  # fmt: skip
_WHERE = (
    "in the library", "behind the church", "at the railway station", "near the river",
    "in the kitchen", "on the second floor", "under the bridge", "in front of the theater",
    "beside the garden wall", "at the market", "on the beach", "in a quiet village",
)  # fmt: skip
_WHEN = (
    "before lunch", "on Monday morning", "after the rain had stopped", "late in the evening",
    "during the winter", "while everybody was asleep", "last summer", "as soon as the sun came up",
    "without saying a word", "because the weather was so cold", "for the first time in years",
    "just before midnight",
)  # fmt: skip


def sentences(seed: int) -> Iterator[str]:
    """Yield sentences without end; two in a row share no part."""
    chance, last = random.Random(seed), tuple[str, ...]()
    while True:
        parts = tuple(chance.choice(group) for group in (_WHO, _DID, _WHERE, _WHEN))
        if not set(parts) & set(last):
            yield " ".join(parts) + "."
            last = parts


# Language: a text, and what it means in English. Whisper's base translates both as espeak-ng speaks
# them; longer ones mostly not.
FOREIGN = {
    "de": (
        "Ich habe einen Hund und eine Katze. Der Hund ist groß und die Katze ist klein.",
        "I have a dog and a cat. The dog is big and the cat is small.",
    ),
    "fr": (
        "Je suis très content. Merci beaucoup pour votre question.",
        "I am very happy. Thank you very much for your question.",
    ),
}
