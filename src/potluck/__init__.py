"""Potluck: everyone brings a few layers of a large language model; everyone eats."""

from importlib.metadata import version

__version__ = version("potluck")
