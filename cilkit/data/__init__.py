"""Data sets: folder layouts, decoded images, the view of a stage, augmentation."""
