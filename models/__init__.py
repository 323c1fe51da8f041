"""The player's side: models, optimizers and variants. Imports torch and itself, never harness."""
