"""The entry of a frontend process.

Its modules are imported without collecting garbage: they leave none, and collections would take a
seventh of the time.
"""

import gc


def main() -> None:
    """Run a frontend until it ends."""
    gc.disable()
    from headrace.frontend.process.serve import run

    run()


if __name__ == "__main__":
    main()
