"""The HTTP API of PROTOCOL §1."""
