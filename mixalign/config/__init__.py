"""Configuration to settings: composed by Hydra, checked key by key, defaults filled in, messages made plain."""
