"""The devices service: connections between front ends and back ends, and the back ends themselves."""
