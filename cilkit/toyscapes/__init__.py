"""Toyscapes: street scenes that the kit draws itself."""
