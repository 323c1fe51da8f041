"""A variant's file: what it may contain, what it costs, and the recipes made of variants.

Imports core and models. Add a module that variants may import to check.py, a construct that is counted like
statements to cost.py. The variants themselves are in models/variants/, one file each.
"""
