"""Runs on the machines of a Ray cluster: what the asking machine does, what travels, what the other one does."""
