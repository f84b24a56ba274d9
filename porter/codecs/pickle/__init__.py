"""Pickles read as descriptions and written opcode by opcode; nothing is executed."""
