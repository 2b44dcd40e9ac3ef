"""Recipes: one method a file, file name = key, in a folder per family."""
