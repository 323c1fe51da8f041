"""The referee: holds the val text, computes every loss, tests models (probes), and never runs a variant's code.

Imports harness.player, because it starts the players (processes that run a variant's code). New probes belong here.
"""
