"""The report's figures as SVG, drawn by Matplotlib."""
