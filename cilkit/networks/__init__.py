"""Networks: ERFNet, and published weights for it."""
