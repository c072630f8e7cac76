"""What accepts the credentials. One module per kind of target.

A module here declares `TITLE` (what it is, for people), `ENGINES` (the names under which secrets
ask for it), `STRATEGIES` (those that its contract test shows), `PERMISSIONS` (the cloud permissions
it needs) and `engine(surroundings)`; `wiring` finds it by these. One whose target is its own
strategy has `target(surroundings, generate)` instead; one whose keys are minted,
`issuer(surroundings)`. `MEMBERS` says what its documents call principal and secret, if not as
usual; `ALPHABET`, which characters its secrets have, if not those of every policy. It imports its
driver on first use, because each function's package holds only its own.
"""
