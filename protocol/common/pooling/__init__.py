"""What models that pool do, as the files of their folders say it. Plain JSON: no torch."""
