"""Which environment judges what, and how it looks to a policy."""
