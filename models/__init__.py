"""The code that trains: the base model, its optimizers, and the variants. Imports torch, but nothing from harness/."""
