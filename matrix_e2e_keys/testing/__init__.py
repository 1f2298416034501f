"""For users' own tests: sample users with fixed keys, and Hypothesis strategies.

``samples`` needs nothing but this library; ``strategies`` needs the extra ``testing`` (Hypothesis). Nothing else in
the library imports this package.
"""
