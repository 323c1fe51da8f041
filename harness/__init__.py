"""The referee's side. Read the modules in the order of the README's layout; imports point that way."""

__version__ = "0.1.0"
