"""A study: its runs, what they were made from, and where they lie."""
