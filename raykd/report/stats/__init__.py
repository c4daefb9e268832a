"""The report's statistics: spread over seeds, paired gains, tests, rankings, importances."""
