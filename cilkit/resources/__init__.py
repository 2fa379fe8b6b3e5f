"""Split files and the published tables, as they come with the package."""
