"""Values that are generated: one policy per kind. Nothing here stores, shows or sends one.

    policy        what every kind is
    text          password, passphrase, hex, base64url, uuid
    shared_keys   hmac, fernet, totp
    key_pairs     key-pair, csr
    jwks          jwks
    htpasswd      htpasswd
    kinds         fields, and all of them: `read` makes a policy of what somebody has written
    unminted      no value: the document that a target's first key is minted into
    fingerprint   compares a value with itself
    file          puts one into a file, for a person at a terminal

The plan, the on-demand function and the command line read policies; wiring hands them to
`strategies.Generated`, as a `ports.Kind`. Imports msgspec, and `cryptography`, `joserfc` and
`bcrypt` when a kind needs them.
"""
