"""The schema of the files in a run folder, and the codec that writes and checks them."""
