"""What models that transcribe say of themselves in their files."""
