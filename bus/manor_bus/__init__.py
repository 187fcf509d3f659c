"""The bus: message types, envelope, codec, broker core and peer library. Knows no domain's disk."""

VERSION = "0.1.0"
PROTOCOL = 1  # grows with every breaking change of the wire page; negotiated in HELLO
