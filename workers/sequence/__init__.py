"""The state of one sequence of tokens, without a tensor."""
