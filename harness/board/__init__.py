"""From a submission to the leaderboard and back, with everything that checks a claim.

Imports all before it but makes no run. A check, a flag for review or a metric belongs here.
"""
