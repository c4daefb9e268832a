"""The teacher of a run: live or from the logit cache, trained by raykd or imported."""
