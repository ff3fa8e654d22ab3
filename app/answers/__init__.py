"""What the pages ask of the library, the catalogue and the store. Drawn nowhere here."""
