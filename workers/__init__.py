"""One engine, one replica of a model: tokens in, tokens out."""
