"""Many hosts on a Ray cluster; nothing but these files knows Ray."""
