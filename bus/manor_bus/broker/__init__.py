"""The node's message switch: who is it, may it, to whom does it go."""
