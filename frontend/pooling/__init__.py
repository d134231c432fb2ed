"""From texts to numbers: tokens, requests to the workers, and what comes back."""
