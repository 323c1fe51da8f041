"""The code that runs and judges trainings. Each folder imports only those above it in docs/architecture.md."""

__version__ = "0.1.0"
