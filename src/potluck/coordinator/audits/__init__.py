"""Decides who is checked, by whom, and what follows: the seam between what a node sent and whether it is believed."""
