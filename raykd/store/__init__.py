"""The folders of runs and searches on disk: their files, the schemas of their records, and their locks."""
