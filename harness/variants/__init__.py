"""A variant's file: what it may say, what it costs, and the recipes that are made of variants.

Imports core and models. A rule about a variant's source belongs here; the variants themselves lie in models/variants/.
"""
