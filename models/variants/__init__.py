"""One idea a file. The catalog finds them here by name."""
