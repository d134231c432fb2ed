"""Process every request before and after its route: address, scope, deadline, errors."""
