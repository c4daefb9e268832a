"""Files on a disk: lookups (lookup.py), atomic writes (atomic.py), locks, file systems, and damaged files."""
