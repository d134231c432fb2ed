"""What runs in the peers' environments, by path: nothing else of this repository is there."""
