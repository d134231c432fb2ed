"""Which clients may use which routes: keys, and the access that routes require."""
