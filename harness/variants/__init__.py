"""A variant's file: what it may contain, its cost, and the recipes that are made of variants.

Imports core and models. Add an allowed name to allowed.py, a refusal to check.py. The variants themselves are in
models/variants/, one file each.
"""
