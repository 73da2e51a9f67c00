"""A project of its own on the platform: what the meters of three sites will use, hours ahead."""
