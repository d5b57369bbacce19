"""Coordinators that serve together: what they tell each other over NATS, and where a request is served."""
