"""Where secrets live. One module per store, satisfying `keyturn.ports.SecretStore`."""
