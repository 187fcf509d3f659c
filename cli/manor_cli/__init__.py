"""The command line `manor`: it parses, posts messages to the bus, and renders the answers."""
