"""The machine under every room: processes, durable files, safe paths, calls that may block, clocks.

It knows nothing of the bus or of domains, and needs nothing but the standard library. What goes wrong is an
OSError; whoever calls says what that means to people.
"""
