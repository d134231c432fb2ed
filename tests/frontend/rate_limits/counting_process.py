"""A frontend's part in counting: takes requests until it is told to end, or dies."""

import sys
import time
from pathlib import Path

from headrace.frontend.rate_limits.rate_limits import RateLimited, RateLimits
from headrace.protocol.api_keys import ApiKey, KeyLimits, digest_of


def counted_key(**limits: int) -> ApiKey:
    named = {"name": "ann", "tenant": "ann", "digest": digest_of("secret")}
    return ApiKey(**named, limits=KeyLimits(**limits))


def main() -> None:
    """Take as many as possible for some seconds; print how many, or hold them until killed."""
    folder, seconds, mode = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    limits = RateLimits.in_folder(folder)
    key = counted_key(**{mode: int(sys.argv[4])})
    end, taken = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            limits.admit(key)
            taken += 1
        except RateLimited:
            time.sleep(0.0001)
    print(taken, flush=True)
    if mode == "max_requests":
        time.sleep(60)


if __name__ == "__main__":
    main()
