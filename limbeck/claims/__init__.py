"""Claims: what is claimed of a recipe, and the experiment that finds out; one a file, file name = key of the recipe."""
