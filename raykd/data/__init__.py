"""Images, labels, views and batches: what a run trains on, the same bits on every machine.

Nothing is imported here: a room that needs the loader does not pay for Parquet, and the other way round.
"""
