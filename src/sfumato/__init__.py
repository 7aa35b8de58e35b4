"""sfumato: train vision-language models on sensitive image-text data with provable differential privacy."""

__version__ = "0.1.0"
