"""The commands of the command line, one module each; the seam between people and every other part."""
