"""A variant's file: what it may contain, its cost, and the recipes that are made of variants.

Imports core and models. Add a module that variants may import to check.py, a construct that stands in for statements
to cost.py. The variants themselves are in models/variants/, one file each.
"""
