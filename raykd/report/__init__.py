"""The report: reads run folders and writes report.json, a page and tables. Imports neither torch nor Ray."""
