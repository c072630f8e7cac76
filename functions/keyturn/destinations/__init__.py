"""Who holds a copy of a secret's value. One module per kind of place.

A module here declares `PERMISSIONS`, what the function's role needs, and one class, which is a
`keyturn.ports.Destination`; `wiring` builds it from the plan and makes the clients.
"""
