"""What pages are made of: charts, components, words and colours. Nothing is computed here."""
