"""Data sets of this project, one folder each."""
