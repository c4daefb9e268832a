"""Writes the report: the page, the text for a terminal, and the files for other programs."""
