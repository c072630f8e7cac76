"""Who is told of what happened. One module per kind of listener.

A module here declares `PERMISSIONS`, what the function's role needs, and one class, which is a
`keyturn.ports.Notifier`; `wiring` builds it from an address such as `eventbridge:default`.
"""
