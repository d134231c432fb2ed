"""What requests may hold and what answers look like, as pydantic models."""
