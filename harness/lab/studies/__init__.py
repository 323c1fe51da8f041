"""Long studies: many contests or runs for one question, as how far results differ by chance, or which ideas gain.

Imports the lab, whose contests and store they use, and all rooms before it. A new study is a module here, with its
command in cli/studies.
"""
