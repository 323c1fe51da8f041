"""Tokenizes a corpus, checks the tokens against the digests in the track's file, and cuts them into batches.

Imports core only. To add a source of text, edit core/dataspec.py, which defines its keys, and corpus.py, which reads
its documents; to add a kind of tokenizer, edit vocabulary.py and prepare.py.
"""
