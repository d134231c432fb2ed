"""Generate randomness that depends on a request's seed and a position, and on nothing else.

Splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014) as a
counter-based generator: no state, so a request continues the same on any worker and in any batch.
"""

_MASK = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1), a multiple of 2**-52, for the output token at `position`."""
    key = _mix((seed + _GAMMA) & _MASK)
    return (_mix((key + (position + 1) * _GAMMA) & _MASK) >> 12) * 2.0**-52


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
