"""Reads submissions, makes the leaderboard from them, and checks every claim. Nothing here trains.

Imports core, rule, variants, data, player and referee. Add a check of one claim to check_claim, a check against the
board to check_board, a flag for reviewers to flags, and a column to rows.
"""
