"""The HTTP APIs: parses requests, says who may ask, and words the answers. This is the seam to every client."""
