"""ISSA's masked noise encoder: the content of one image, the style of another."""
