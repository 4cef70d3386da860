"""Readers of training data, and the rule that splits it by person."""
