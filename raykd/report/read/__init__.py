"""Reads run folders and searches into the report's dataclasses. Imports neither torch nor Ray."""
