"""Images, labels, views and batches: the data that a run trains on, bit-identical on every machine.

Nothing is imported here, so that a module that needs only the loader does not import Parquet.
"""
