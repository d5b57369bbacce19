"""Pure decisions: what spans cost, which node serves which layers, and which route a session takes."""
