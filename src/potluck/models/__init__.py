"""What a model is on disk: its manifest, its file formats, and where its bytes come from."""
