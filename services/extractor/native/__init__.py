"""The compiled resizing of images."""
