"""The code that runs and judges trainings. docs/architecture.md lists its folders; each imports only folders above
it."""

__version__ = "0.1.0"
