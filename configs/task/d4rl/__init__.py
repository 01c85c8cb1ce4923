"""Tasks on the public D4RL datasets."""
