"""Engines outside tesserec that can hold a bundle's postings: Faiss, Qdrant and Milvus.

:mod:`tesserec.adapters.engine` is what an engine has to do; everything else of a search is written once, in
:mod:`tesserec.adapters.search`. The engines' own packages are imported when an engine is made.
"""
