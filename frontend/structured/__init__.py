"""What form an output must have: from a request's fields to a grammar that a worker follows."""
