"""Policies for other programs: a whole decision in one file. Imports nothing, so that ``runtime`` needs no torch."""
