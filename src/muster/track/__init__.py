"""Records to console, files, plots and the HTML report."""
