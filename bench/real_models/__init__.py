"""Compare models that people have with transformers and llama.cpp."""
