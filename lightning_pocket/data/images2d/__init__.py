"""2D images of known class: reading, checking, preparing, and the cache of prepared ones."""
