"""What each asset does when it is materialised: a signature, a call into the layers below, metadata."""
