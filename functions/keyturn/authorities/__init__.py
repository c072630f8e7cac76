"""Platforms that set a password at our request. One module per service.

A module here declares `SERVICE` (the third part of the ARNs that a plan's `authority` may have),
`PERMISSIONS` (what the function's role needs) and `authority(client, arn, surroundings)`, which
returns a `keyturn.ports.Authority`; `wiring` finds it by these and makes the client.
"""
