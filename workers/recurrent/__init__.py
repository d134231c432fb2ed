"""States of recurrent layers: short convolutions, state spaces, gated delta rules."""
