"""Inputs that raykd must refuse with one clear line, one module for each area. test_bad_inputs.py runs them all."""
