"""keyturn: functions that rotate and generate secrets, and see each change through."""

__version__ = "0.1.0"
