"""Who must pick up a new version. One module per kind of consumer.

See `keyturn.followers` for what a module here declares.
"""
