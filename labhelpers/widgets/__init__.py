"""What moves on the page: ipywidgets that show results and compute none."""
