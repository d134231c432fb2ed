"""Ask a server for all that its OpenAPI document allows, and for what it does not."""
