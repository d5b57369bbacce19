"""The commands, one module each; the seam between the command line and every other part."""
