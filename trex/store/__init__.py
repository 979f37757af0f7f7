"""Folders and files of results: the only part that knows how they are laid out."""
