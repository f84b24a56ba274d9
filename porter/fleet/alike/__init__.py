"""Conversions of files that differ in the values of their tensors only.

What a conversion does follows from the bytes around the tensors: names, shapes, dtypes, order. It
is learnt from one file; another of the same size, all of whose bytes but the elements and the
checksums over them are the same, is converted by copying and transposing the same ranges. Whatever
is otherwise is left to `porter.convert`.
"""
