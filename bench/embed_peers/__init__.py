"""What other people embed texts with, each in an environment of its own, for bench.embed."""
