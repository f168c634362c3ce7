"""One adapter per framework behind one small protocol; the core imports none of them."""
