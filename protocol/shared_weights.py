"""What launcher and workers have to agree on about the files in which workers share weights."""

_PREFIX = "headrace-weights"


def memory_file_name(group: str) -> str:
    """The name of a group's memory file, as memfd_create takes it; at most 240 bytes."""
    return f"{_PREFIX}-{group}".encode()[:240].decode(errors="ignore")
