"""aegis: identity. Issues short-lived JWTs to registered clients and publishes the keys that verify them."""
