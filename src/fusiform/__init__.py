"""fusiform: self-supervised facial representation learning, from a folder of photos to a measured face encoder."""

__version__ = "0.1.0"
