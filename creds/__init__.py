"""Credentials of a request become live storage clients."""
