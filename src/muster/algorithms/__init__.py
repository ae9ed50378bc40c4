"""One file per paper: its difference, its citation, and the function that builds the `Algorithm`."""
