"""Looks after what runs leave in a cache, and at the machine and the libraries that they run on."""
