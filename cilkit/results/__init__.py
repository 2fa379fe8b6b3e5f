"""Scores, tables and claims of finished runs."""
