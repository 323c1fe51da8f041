"""The referee: holds val, scores and probes, and never runs a variant's code.

Imports the player, whose processes it starts and questions. Probes belong here.
"""
