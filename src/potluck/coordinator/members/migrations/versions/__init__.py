"""The revisions. Each file is named after its number and says what it changes."""
