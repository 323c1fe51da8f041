"""Long studies. Each makes many runs for one question, such as which ideas gain, or how much results vary by chance.

It may import the lab and every package above the lab in the table of docs/architecture.md. A new study is a module
here, with its command in cli/studies.
"""
