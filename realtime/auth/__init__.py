"""Who a token belongs to: `tokens.py` verifies it, `keys.py` has the public keys."""
