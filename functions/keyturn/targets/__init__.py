"""What accepts the credentials. One module per kind of target.

A module here declares `ENGINES` (the names under which secrets ask for it), `PERMISSIONS` (the
cloud permissions it needs) and `engine(surroundings)`; `wiring` finds it by these. It imports its
driver on first use, because each function's package holds only its own.
"""
