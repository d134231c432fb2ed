"""HTTP bodies in and out: parsing, size limits, the API's description."""
