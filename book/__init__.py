"""The notebooks as a static site: README, executed notebooks and the API reference, offline."""
