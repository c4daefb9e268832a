"""What is asked for: experiments, recipes, searches and their plan. Frozen, and checked before anything starts."""
