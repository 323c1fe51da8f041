"""Long studies: many contests or many runs for one question. `noise` measures how far results differ by chance.

Imports the lab, whose contests and store they use, and all rooms before it. A new study is a module here, with its
command in cli/studies.
"""
