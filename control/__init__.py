"""Control domain."""
