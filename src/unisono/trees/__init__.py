"""An optimizer's whole state, whatever it is made of: kept as a tree of plain values and arrays, or refused by name."""
