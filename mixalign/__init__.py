"""Multi-task alignment of language models; the mixture is decided while it trains."""

__version__ = "0.1.0"
