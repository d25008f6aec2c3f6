"""Floor 1: what lies on a disk: written whole or not at all, found, fetched, decoded, compared."""
