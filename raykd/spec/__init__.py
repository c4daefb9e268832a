"""Experiments, recipes, searches and plans: frozen configuration, checked before anything starts."""
