"""What the kit costs: each figure a ratio to plain PyTorch, both sides timed in one run."""
