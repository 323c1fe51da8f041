"""Everything that formats: tables, sentences, plots, the site, trackers, JSON documents.

Imports everything but the commands. A page, a table or a tracker belongs here.
"""
