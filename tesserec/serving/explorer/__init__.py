"""A page that shows what a model believes: its interests as a map, a user as a posterior, a codebook over time.

Pure functions over a bundle compute what is shown (``interests``, ``users``, ``health``, as the models of ``shown``);
``web`` serves them as JSON beside a page without a build step; ``static`` holds that page.
"""
