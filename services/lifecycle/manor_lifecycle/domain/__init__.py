"""The core of one domain: its state is derived from what is seen, its plans are made from what is seen."""
