"""Reads submissions, makes the leaderboard from them, and checks each submission. Nothing here trains a model.

Imports core, rule, variants, data, player and referee. Add a check of one submission's files to check_claim.py, a check
against other submissions to check_board.py, a flag for reviewers to flags.py, and a column of the board to rows.py.
"""
