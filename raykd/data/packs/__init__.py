"""Packed data sets: encoded images in a few large files, decoded in each step.

record: the files of a pack. reader: its encoded images. dataset: a pack as a Dataset. images, crops: decoding.
encoding: one image of a pack. shard, writer: packing. folder: who may pack into a folder.
"""
