"""Reads run and search folders into dataclasses."""
