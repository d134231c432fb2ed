"""Made-up requests, drawn from the API's own description."""
