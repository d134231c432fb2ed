"""Names of files in the run directory that more than one part of the product uses."""

# Locked by the launcher for as long as it lives.
LAUNCHER_LOCK = "launcher.lock"
# The groups that operators have paused, for the next coordinator.
PAUSED_GROUPS = "paused.json"
