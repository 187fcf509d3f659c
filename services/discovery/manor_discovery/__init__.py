"""The discovery service: who is there now."""
