"""What launcher and workers have to agree on about the files in which workers share weights."""


def memory_file_name(group: str) -> str:
    """The name of a group's memory file, as memfd_create takes it; no two groups have the same."""
    return f"headrace-weights-{group}"
