"""From a validated request to its choices: submit it to workers, and collect their outputs."""
