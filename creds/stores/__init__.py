"""One engine a file; ``creds.resolve`` imports each only when a location needs it."""
