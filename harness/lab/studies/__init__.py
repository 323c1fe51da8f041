"""Long studies. Each makes many runs for one question, such as which ideas gain, or how much results vary by chance.

Imports the lab and all rooms before it. A new study is a module here, with its command in cli/studies.
"""
