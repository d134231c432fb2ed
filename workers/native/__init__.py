"""Forward passes as programs for this processor: captured from a model, run by compiled code."""
