"""Long studies.

Each study makes many runs for one question, such as which ideas help, or how much losses vary by chance. Modules here
may import the lab and every package above the lab in the table of docs/architecture.md. A new study is a module here,
and its command is in cli/studies.
"""
