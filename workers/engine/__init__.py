"""One model replica: scheduling, K/V blocks, speculation, and the step that joins them."""
