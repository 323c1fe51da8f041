"""A text becomes pinned tokens, and tokens become batches.

Imports core alone. A data source or a tokenizer belongs here.
"""
