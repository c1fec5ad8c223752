"""One module a command: what it does, without option parsing."""
