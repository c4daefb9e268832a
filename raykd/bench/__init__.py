"""How fast the loop is: against its own bare step, and against the usual way to distill. Needs no Ray."""
