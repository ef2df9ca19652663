"""The whole contract of a retriever, on one screen.

Users' own ids go in and come out. A history is enough: nobody needs to have been in training. Everything below
``retrieve`` is shared by all models: a model brings a *user side* (histories to interests to vectors) and *postings*
(where the items lie), and :mod:`tesserec.index` does the search, in memory as well as from a bundle.
"""
