"""The lifecycle service: the life of each domain on this node."""
