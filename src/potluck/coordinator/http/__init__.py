"""The HTTP APIs: parses requests, says who may ask, and words the answers; the seam to every client."""
