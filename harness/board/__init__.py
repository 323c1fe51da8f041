"""The board: submissions, the leaderboard made from them, and every check of a claim. It trains nothing.

Imports all rooms before it (core, rule, variants, data, player, referee). Add a check of one claim to
check_claim, a check against the board to check_board, a flag for reviewers to flags, a column to rows.
"""
