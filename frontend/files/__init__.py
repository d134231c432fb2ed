"""Files of clients: rows in the store, bytes in a folder."""
