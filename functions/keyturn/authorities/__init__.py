"""Platforms that set a password at our request. One module per service.

A module here declares `SERVICE` (the third part of the ARNs that a plan's `authority` may have, or
the host of one of Google's APIs), `PERMISSIONS` (what the function's role needs) and
`authority(client, name, surroundings)`, which returns a `keyturn.ports.Authority`. One of Google's
has `NAMES` besides: a pattern of what it is named by. `wiring` finds it by these and makes the
client.
"""
