"""Run folders in, report.json and a page out. Reads files; imports neither torch nor ray."""
