"""Videos from addresses: listing, rights, fetching, and the catalogue of what became of each."""
