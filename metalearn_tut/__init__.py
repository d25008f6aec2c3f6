"""Few-shot learning of compact models: reference modules of the book."""
