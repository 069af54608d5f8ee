"""The room of `02_image_layers`."""
