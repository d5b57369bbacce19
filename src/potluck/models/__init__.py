"""A model on disk: its manifest, its file formats, and the places where its bytes come from."""
