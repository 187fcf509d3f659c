"""What travels on the bus: envelope, codec, errors, subjects, and the messages. Nothing here does I/O."""
