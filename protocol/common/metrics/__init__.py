"""The files in which all processes of a pool keep their metrics."""
